//! The declaration of a node's settings: each stands here once.
//!
//! A field is a flag, a variable and a key of the file, with one text of help and, after `=`, its
//! default. [`Declared::or`] puts one source in front of another, field by field. The rest of a
//! setting's way is short: [`super::Settings`] checks what depends on other settings, and whoever
//! uses one of the rest reads it from here.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Deserialize;

use super::values::{
    AuditFailure, ClientCertificates, DurationText, Members, Profile, RateText, Rho,
};
use crate::cli::logging::LogFormat;

/// Declares the settings. Fields without a default are methods that return an `Option`; those with
/// one return the default if no source has the field.
macro_rules! declare {
    (
        $(#[$of_struct:meta])*
        $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[arg $argument:tt])*
                $field:ident: $type:ty $(= $default:literal)?,
            )*
        }
    ) => {
        $(#[$of_struct])*
        #[derive(Clone, Debug, Default, Args, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct $name {
            $(
                $(#[arg $argument])*
                #[arg(help = help(concat!($($doc),+ $(, " [default: ", $default, "]")?)))]
                #[arg(hide_env_values = true)]
                $field: Option<$type>,
            )*
            /// `--log`, which every command has, as a key of the file.
            #[arg(skip)]
            pub(super) log: Option<String>,
            /// `--log-format` likewise.
            #[arg(skip)]
            pub(super) log_format: Option<LogFormat>,
        }

        impl $name {
            /// The fields of `self`; those that it lacks are `other`'s.
            pub(super) fn or(self, other: Self) -> Self {
                Self {
                    $($field: self.$field.or(other.$field),)*
                    log: self.log.or(other.log),
                    log_format: self.log_format.or(other.log_format),
                }
            }

            $(declare!(@read $(#[doc = $doc])+ $field: $type $(= $default)?);)*
        }

        /// The defaults, each as its setting's name and a check that it is a value of its type.
        #[cfg(test)]
        const DEFAULTS: &[(&str, fn(&$name))] =
            &[$($((stringify!($field), |of| { let _ = (of.$field(), $default); }),)?)*];
    };
    (@read $(#[doc = $doc:literal])+ $field:ident: $type:ty) => {
        $(#[doc = $doc])+
        pub(crate) fn $field(&self) -> Option<&$type> {
            self.$field.as_ref()
        }
    };
    (@read $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:literal) => {
        $(#[doc = $doc])+
        pub(crate) fn $field(&self) -> $type {
            self.$field.clone().unwrap_or_else(|| default($default))
        }
    };
}

declare! {
    /// The settings of a node as one source has them: the command line with the variables, the
    /// file, or both together.
    Declared {
        /// This node's number in the cluster, from 1; never given to another machine later
        #[arg(long, env = "KEYWARD_ID", value_parser = parse_id)]
        id: u64,
        /// Every node of the cluster, this one too: its id and where its peers reach it
        #[arg(long, value_name = "ID=HOST:PORT,…", env = "KEYWARD_MEMBERS")]
        members: Members,
        /// The node's folder, on a disk of its own machine; made if it is not there
        #[arg(long, value_name = "DIR", env = "KEYWARD_DATA_DIR")]
        data_dir: PathBuf,
        /// Where clients connect [default: port 7420 of all interfaces, or of 127.0.0.1 if this
        /// node's own member address is on it]
        #[arg(long, value_name = "ADDRESS:PORT", env = "KEYWARD_CLIENT_LISTEN")]
        client_listen: String,
        /// Where the other nodes connect [default: the port of this node's own member address, on
        /// the interfaces as for clients]
        #[arg(long, value_name = "ADDRESS:PORT", env = "KEYWARD_PEER_LISTEN")]
        peer_listen: String,
        /// Where clients are told to find this node when it leads [default: http://, the host of
        /// its own member address and the client port]
        #[arg(long, value_name = "URL", env = "KEYWARD_ADVERTISE_CLIENT")]
        advertise_client: String,
        /// Names by which browsers may call this node, besides IP addresses, localhost and the
        /// hosts of all members and of --advertise-client; programs may call it by any name
        #[arg(long, value_name = "NAME,…", env = "KEYWARD_ALLOWED_HOSTS", value_delimiter = ',')]
        allowed_hosts: Vec<String>,
        /// How long a client's connection may be idle; let it be longer than what a balancer in
        /// front keeps unused connections for
        #[arg(long, value_name = "DURATION", env = "KEYWARD_IDLE_TIMEOUT")]
        idle_timeout: DurationText = "75s",
        /// Memory for large requests, and for large answers until they are read, in MiB
        #[arg(long, value_name = "MIB", env = "KEYWARD_BUFFER_MIB")]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
        buffer_mib: u64 = "64",
        /// How many connections clients of one address may have [default: three quarters of all]
        #[arg(long, value_name = "N", env = "KEYWARD_ADDRESS_CONNECTIONS")]
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        address_connections: u64,
        /// How many requests a second clients of one address may make of this node, and after a
        /// colon how many at once, such as 100:500 [default: no limit]
        #[arg(long, value_name = "RATE[:BURST]", env = "KEYWARD_ADDRESS_RATE")]
        address_rate: RateText,
        /// The same for one identity, as an access token or a client certificate names it
        /// [default: no limit]
        #[arg(long, value_name = "RATE[:BURST]", env = "KEYWARD_IDENTITY_RATE")]
        identity_rate: RateText,
        /// How soon a dead leader is replaced: `stable` waits longer and suits busy or distant
        /// machines, `fast` suits one quiet network
        #[arg(long, value_name = "PROFILE", env = "KEYWARD_PROFILE")]
        profile: Profile = "stable",
        /// By how much the clocks of two machines may differ in speed, such as 1%
        #[arg(long, value_name = "PERCENT", env = "KEYWARD_RHO")]
        rho: Rho = "1%",
        /// Entries of the log after which a snapshot is written
        #[arg(long, value_name = "N", env = "KEYWARD_SNAPSHOT_EVERY", value_parser = parse_count)]
        snapshot_every: u64 = "50000",
        /// Where this node writes its audit, a line of JSON for each change: a file, or - for
        /// standard output
        #[arg(long, value_name = "FILE", env = "KEYWARD_AUDIT")]
        audit: PathBuf,
        /// The size from which the file of the audit is renamed and a new one begun, in MiB
        #[arg(long, value_name = "MIB", env = "KEYWARD_AUDIT_MAX_MIB")]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
        audit_max_mib: u64 = "100",
        /// How many renamed files of the audit are kept
        #[arg(long, value_name = "N", env = "KEYWARD_AUDIT_KEPT")]
        #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
        audit_kept: u32 = "10",
        /// What to do while the audit cannot be written: `refuse` the requests that this node would
        /// propose, or `drop` lines and count them
        #[arg(long, value_name = "WHAT", env = "KEYWARD_AUDIT_FAILURE")]
        audit_failure: AuditFailure = "refuse",
        /// A file with the access token of the first administrator, for the first start: access
        /// control is switched on before any client is answered. The same file on each node
        #[arg(long, value_name = "FILE", env = "KEYWARD_BOOTSTRAP_TOKEN_FILE")]
        bootstrap_token_file: PathBuf,
        /// A file with the issuers whose JWTs are taken as credentials, as docs/access.md describes
        /// it. It and the files of keys that it names are read again when they have changed
        #[arg(long, value_name = "FILE", env = "KEYWARD_JWT_ISSUERS")]
        jwt_issuers: PathBuf,
        /// Show /metrics to whoever asks; otherwise, with access control on, it takes an access
        /// token that may observe every lock
        #[arg(long, env = "KEYWARD_OPEN_METRICS")]
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        #[arg(value_parser = BoolishValueParser::new(), hide_possible_values = true)]
        #[arg(value_name = "true|false")]
        open_metrics: bool = "false",
        /// How long a stop may take before it is forced
        #[arg(long, value_name = "DURATION", env = "KEYWARD_SHUTDOWN_TIMEOUT")]
        shutdown_timeout: DurationText = "10s",
        /// The certificate that clients see (PEM), followed by those between it and its CA. With it
        /// clients connect with https://
        #[arg(long, value_name = "FILE", env = "KEYWARD_TLS_CERT", help_heading = "TLS")]
        tls_cert: PathBuf,
        /// Its private key (PEM)
        #[arg(long, value_name = "FILE", env = "KEYWARD_TLS_KEY", help_heading = "TLS")]
        tls_key: PathBuf,
        /// The CAs that clients' certificates are checked with (PEM): clients are asked for one
        #[arg(long, value_name = "FILE", env = "KEYWARD_TLS_CLIENT_CA", help_heading = "TLS")]
        tls_client_ca: PathBuf,
        /// Whether a client without a certificate is refused, if there is --tls-client-ca
        /// [default: required]
        #[arg(long, value_name = "WHETHER", env = "KEYWARD_TLS_CLIENT_AUTH", help_heading = "TLS")]
        tls_client_auth: ClientCertificates,
        /// This node's certificate for the other nodes (PEM), with its name keyward-node-ID. With it
        /// nodes speak TLS to each other, and each checks who the other is
        #[arg(long, value_name = "FILE", env = "KEYWARD_PEER_CERT", help_heading = "TLS")]
        peer_cert: PathBuf,
        /// Its private key (PEM)
        #[arg(long, value_name = "FILE", env = "KEYWARD_PEER_KEY", help_heading = "TLS")]
        peer_key: PathBuf,
        /// The CAs that the other nodes' certificates are checked with (PEM); best one of its own
        #[arg(long, value_name = "FILE", env = "KEYWARD_PEER_CA", help_heading = "TLS")]
        peer_ca: PathBuf,
        /// Start without TLS on addresses that other machines can reach: whoever reaches the ports
        /// can then take any lock, and damage the cluster
        #[arg(long, env = "KEYWARD_INSECURE", help_heading = "TLS")]
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        #[arg(value_parser = BoolishValueParser::new(), hide_possible_values = true)]
        #[arg(value_name = "true|false")]
        insecure: bool = "false",
    }
}

/// A field's comment as its help: one paragraph, its lines joined.
fn help(comment: &'static str) -> &'static str {
    comment.trim_start()
}

/// A default as it is written in the declaration.
fn default<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("the default {text} is not a value of its setting"))
}

fn parse_id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(id @ 1..) => Ok(id),
        _ => Err("a node's id is a whole number from 1 on".to_owned()),
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it must be a whole number of entries, such as 50000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeConfig;

    #[test]
    fn every_default_is_a_value_of_its_setting() {
        let nothing = Declared::default();
        for (_, read) in DEFAULTS {
            read(&nothing);
        }
        assert!(DEFAULTS.iter().any(|(name, _)| *name == "rho"));
    }

    #[test]
    fn the_defaults_are_those_of_a_node_that_is_configured_by_nobody() {
        let (declared, node) = (Declared::default(), NodeConfig::new(1, [].into(), "data"));
        assert_eq!(declared.snapshot_every(), node.snapshot_every);
        assert_eq!(declared.rho().parts_per_million, node.rho_ppm);
        assert_eq!(declared.buffer_mib() << 20, node.buffer_bytes as u64);
        let idle = crate::http::Limits::default().head_timeout;
        assert_eq!(declared.idle_timeout(), DurationText(idle));
    }
}
