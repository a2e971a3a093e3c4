//! Names to addresses without the C library, and without a memory of its own.
//!
//! A static binary has no C resolver worth the name, so the lookup is done here. Answers are not
//! kept: a container that comes back has a new address long before its record's time to live is
//! over, and a lookup is made only when a connection is, which is seldom.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Resolves with `/etc/hosts` and the name servers of `/etc/resolv.conf`.
#[derive(Clone, Default)]
pub struct Resolver {
    // Made when first used, because it has to be made inside a runtime.
    inner: Arc<OnceLock<TokioResolver>>,
}

impl Resolver {
    fn resolver(&self) -> Result<&TokioResolver, BoxError> {
        if let Some(resolver) = self.inner.get() {
            return Ok(resolver);
        }
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let made = builder.build()?;
        Ok(self.inner.get_or_init(|| made))
    }

    async fn addresses(&self, name: &str) -> Result<Addrs, BoxError> {
        let found = self.resolver()?.lookup_ip(name).await?;
        let addresses: Vec<SocketAddr> =
            found.iter().map(|address| SocketAddr::new(address, 0)).collect();
        Ok(Box::new(addresses.into_iter()))
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move { resolver.addresses(name.as_str()).await })
    }
}

#[cfg(test)]
mod tests {
    use super::Resolver;

    #[tokio::test]
    async fn localhost_has_an_address() {
        let found = Resolver::default().addresses("localhost").await.unwrap().count();
        assert!(found > 0);
    }
}
