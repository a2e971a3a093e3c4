//! Name resolution without the C library and without a cache.
//!
//! A static binary has no usable C resolver, so names are looked up here. Answers are not cached: a
//! container that comes back has a new address long before its record's time to live is over, and a
//! lookup is made only for a new connection, which is seldom.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The files that the configuration comes from.
const FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Resolves with `/etc/hosts` and the name servers of `/etc/resolv.conf`. Both are read again when
/// they have changed.
#[derive(Clone, Default)]
pub struct Resolver {
    made: Arc<Mutex<Option<Made>>>,
}

/// A resolver, and the files as they were when it was made.
struct Made {
    resolver: TokioResolver,
    files: Files,
}

/// Time and size of each file; `None` for one that is not there.
type Files = [Option<(Option<SystemTime>, u64)>; FILES.len()];

fn look_at_files() -> Files {
    FILES.map(|file| std::fs::metadata(file).ok().map(|of| (of.modified().ok(), of.len())))
}

impl Resolver {
    fn resolver(&self) -> Result<TokioResolver, BoxError> {
        let files = look_at_files();
        // The resolver is stored whole, so it is intact even after a panic.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| made.files == files) {
            return Ok(made.resolver.clone());
        }
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build()?;
        *made = Some(Made { resolver: resolver.clone(), files });
        Ok(resolver)
    }

    async fn addresses(&self, name: &str) -> Result<Addrs, BoxError> {
        let found = self.resolver()?.lookup_ip(name).await.map_err(|error| {
            if error.is_nx_domain() || error.is_no_records_found() {
                BoxError::from("name not found")
            } else {
                BoxError::from(format!("name lookup failed: {error}"))
            }
        })?;
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
    use super::{Resolver, look_at_files};

    #[tokio::test]
    async fn localhost_has_an_address() {
        let found = Resolver::default().addresses("localhost").await.unwrap().count();
        assert!(found > 0);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_in_words() {
        let resolver = Resolver::default();
        let Err(error) = resolver.addresses("nosuch.invalid").await else { panic!("it has one") };
        let text = error.to_string();
        assert!(text.starts_with("name "), "{text}");
        assert!(!text.contains("Query {"), "{text}");
    }

    #[tokio::test]
    async fn the_configuration_is_read_again_when_its_files_have_changed() {
        let resolver = Resolver::default();
        resolver.resolver().unwrap();
        // As if the files had been different then.
        resolver.made.lock().unwrap().as_mut().unwrap().files = [None, None];
        resolver.resolver().unwrap();
        assert_eq!(resolver.made.lock().unwrap().as_ref().unwrap().files, look_at_files());
    }
}
