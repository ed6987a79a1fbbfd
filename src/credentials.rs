//! Certificates, keys and trust, from PEM files.
//!
//! Both ends of the proxy need them, and an operator's mistakes with them are the same on both: the
//! wrong file, a key of another certificate, an encrypted key, a forgotten renewal. They are found
//! here, when the files are read, and each message names the file. What a certificate's age means is
//! left to the peers: an expired one is a warning, since refusing to start would turn a late renewal
//! into an outage.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::{fmt, io};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::config::Certificate;

/// Why a certificate, key or trust file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not valid PEM: {detail}", path.display())]
    BrokenPem { path: PathBuf, detail: String },
    #[error("no PEM {wanted} in {} ({found})", path.display())]
    Missing { path: PathBuf, wanted: &'static str, found: String },
    #[error(
        "the private key in {} is encrypted; decrypt it first, for example with `openssl pkey`",
        path.display()
    )]
    EncryptedKey { path: PathBuf },
    #[error("certificate {position} in {} is not usable: {detail}", path.display())]
    BadCertificate { path: PathBuf, position: usize, detail: String },
    #[error("the private key in {} is not usable: {source}", path.display())]
    BadKey { path: PathBuf, source: rustls::Error },
    #[error(
        "the private key in {} does not belong to the first certificate in {}; \
         the server's own certificate comes first, its issuers after it",
        key.display(), cert.display()
    )]
    KeyMismatch { cert: PathBuf, key: PathBuf },
}

/// Something an operator should see, though nothing stops because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The certificate ran out this long ago.
    Expired { path: PathBuf, ago: Duration },
    /// The certificate becomes valid only after this long.
    NotYetValid { path: PathBuf, ahead: Duration },
    /// The certificate carries no DNS name, so no server name can select it.
    NoNames { path: PathBuf },
    /// Every name of the certificate is already served by an earlier one with the same kind of key.
    Shadowed { path: PathBuf },
    /// So many certificates of a trust bundle could not be read as trust anchors.
    IgnoredRoots { path: PathBuf, count: usize },
}

/// The one set of algorithms that every TLS connection of the process uses.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Reads a certificate chain and its key, and checks that they belong together.
pub fn certified_key(files: &Certificate) -> Result<CertifiedKey, CredentialError> {
    let chain = certificates(&files.cert)?;
    for (index, certificate) in chain.iter().enumerate() {
        EndEntityCert::try_from(certificate).map_err(|error| CredentialError::BadCertificate {
            path: files.cert.clone(),
            position: index + 1,
            detail: error.to_string(),
        })?;
    }
    let key = private_key(&files.key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CredentialError::KeyMismatch { cert: files.cert.clone(), key: files.key.clone() }
        }
        source => CredentialError::BadKey { path: files.key.clone(), source },
    })
}

/// Reads a bundle of trust anchors.
///
/// System bundles now and then hold a certificate that is too odd to be an anchor; such ones are skipped
/// and reported. A bundle without any usable one is an error.
pub fn trust_anchors(path: &Path) -> Result<(RootCertStore, Option<Warning>), CredentialError> {
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(certificates(path)?);
    if roots.is_empty() {
        return Err(CredentialError::BadCertificate {
            path: path.to_owned(),
            position: 1,
            detail: "it cannot be a trust anchor".to_owned(),
        });
    }
    let warning = (ignored > 0).then(|| Warning::IgnoredRoots { path: path.to_owned(), count: ignored });
    Ok((roots, warning))
}

/// Whether the certificate's time has not come yet, or is over.
pub fn check_validity(path: &Path, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Warning> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    // Verifying against no trust anchor must fail; the validity period is what fails first.
    let failure = parsed.verify_for_usage(&[], &[], &[], now, KeyUsage::server_auth(), None, None).err()?;
    let between = |late: UnixTime, early: UnixTime| Duration::from_secs(late.as_secs() - early.as_secs());
    match failure {
        webpki::Error::CertExpired { time, not_after } => {
            Some(Warning::Expired { path: path.to_owned(), ago: between(time, not_after) })
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            Some(Warning::NotYetValid { path: path.to_owned(), ahead: between(not_before, time) })
        }
        _ => None,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(path, &error))?;
    if certificates.is_empty() {
        return Err(missing(path, "certificate", &text));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(_) if contains(&text, b"ENCRYPTED") => {
            Err(CredentialError::EncryptedKey { path: path.to_owned() })
        }
        Err(pem::Error::NoItemsFound) => Err(missing(path, "private key", &text)),
        Err(error) => Err(broken(path, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialError> {
    std::fs::read(path).map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })
}

fn missing(path: &Path, wanted: &'static str, text: &[u8]) -> CredentialError {
    let label = String::from_utf8_lossy(text)
        .lines()
        .find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----").map(str::to_owned));
    let found = match label {
        None => "the file holds no PEM section".to_owned(),
        Some(label) => format!("the file holds a {label}"),
    };
    CredentialError::Missing { path: path.to_owned(), wanted, found }
}

fn broken(path: &Path, error: &pem::Error) -> CredentialError {
    let detail = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("`{}` is missing; is the file cut off?", String::from_utf8_lossy(end_marker).trim_end())
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("cannot make sense of the line `{}`", String::from_utf8_lossy(line).trim_end())
        }
        other => other.to_string(),
    };
    CredentialError::BrokenPem { path: path.to_owned(), detail }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { path, ago } => {
                write!(
                    f,
                    "the certificate in {} expired {} ago; callers will refuse it",
                    path.display(),
                    Span(*ago)
                )
            }
            Self::NotYetValid { path, ahead } => write!(
                f,
                "the certificate in {} becomes valid only in {}; is this machine's clock right?",
                path.display(),
                Span(*ahead)
            ),
            Self::NoNames { path } => write!(
                f,
                "the certificate in {} names no host, so no server name selects it; add a subject alternative name",
                path.display()
            ),
            Self::Shadowed { path } => write!(
                f,
                "the certificate in {} is never used: earlier ones serve all its names",
                path.display()
            ),
            Self::IgnoredRoots { path, count } => {
                write!(
                    f,
                    "{count} certificates in {} cannot be trust anchors and were skipped",
                    path.display()
                )
            }
        }
    }
}

/// Days, or hours where days would say 0.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.0.as_secs() / 3600;
        if hours < 48 { write!(f, "{hours} hours") } else { write!(f, "{} days", hours / 24) }
    }
}

/// Certificates made for tests, written to files as an operator would have them.
#[cfg(test)]
pub(crate) mod samples {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};

    use super::*;

    /// An authority, and a directory that holds its certificate and all that it signed.
    pub(crate) struct Authority {
        dir: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        pub(crate) fn new() -> Self {
            Self::with(&rcgen::PKCS_ECDSA_P256_SHA256)
        }

        pub(crate) fn with(algorithm: &'static SignatureAlgorithm) -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "sample authority");
            let key = KeyPair::generate_for(algorithm).unwrap();
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
            Self { dir, issuer: Issuer::new(params, key) }
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        pub(crate) fn ca(&self) -> PathBuf {
            self.path("ca.pem")
        }

        /// Writes `FILE.pem` and `FILE.key`, good for `names`.
        pub(crate) fn sign(&self, file: &str, names: &[&str]) -> Certificate {
            self.sign_with(&rcgen::PKCS_ECDSA_P256_SHA256, file, names)
        }

        pub(crate) fn sign_with(
            &self,
            algorithm: &'static SignatureAlgorithm,
            file: &str,
            names: &[&str],
        ) -> Certificate {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let key = KeyPair::generate_for(algorithm).unwrap();
            let cert = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
            let files = Certificate {
                cert: self.path(&format!("{file}.pem")),
                key: self.path(&format!("{file}.key")),
            };
            std::fs::write(&files.cert, cert.pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::Authority;
    use super::*;

    /// The message has to name the file at fault and hold the given words.
    #[track_caller]
    fn assert_says(files: &Certificate, at_fault: &Path, words: &str) {
        let message = certified_key(files).unwrap_err().to_string();
        assert!(message.contains(at_fault.to_str().unwrap()) && message.contains(words), "{message}");
    }

    #[test]
    fn each_mistake_names_the_file_and_what_is_wrong() {
        let ca = Authority::new();
        let good = ca.sign("good", &["a.test"]);
        let other = ca.sign("other", &["a.test"]);
        let with_key = |key: &Path| Certificate { key: key.to_owned(), ..good.clone() };
        let with_cert = |cert: &Path| Certificate { cert: cert.to_owned(), ..good.clone() };
        let write = |name: &str, text: &str| {
            std::fs::write(ca.path(name), text).unwrap();
            ca.path(name)
        };
        certified_key(&good).unwrap();

        let absent = ca.path("absent.pem");
        assert_says(&with_cert(&absent), &absent, "No such file");
        assert_says(&with_key(&other.key), &other.key, "does not belong");
        assert_says(&with_key(&good.cert), &good.cert, "no PEM private key");
        assert_says(&with_cert(&good.key), &good.key, "holds a PRIVATE KEY");

        let text = write("text", "not PEM at all");
        assert_says(&with_cert(&text), &text, "no PEM section");
        let cut = write("cut.pem", &std::fs::read_to_string(&good.cert).unwrap()[..200]);
        assert_says(&with_cert(&cut), &cut, "cut off");
        let hollow = write("hollow.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert_says(&with_cert(&hollow), &hollow, "certificate 1");
        let hollow = write("hollow.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        assert_says(&with_key(&hollow), &hollow, "not usable");
        let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let sealed = write("sealed.key", sealed);
        assert_says(&with_key(&sealed), &sealed, "openssl pkey");
    }

    #[test]
    fn a_trust_bundle_skips_what_it_cannot_use_but_needs_one_anchor() {
        let ca = Authority::new();
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let mixed = ca.path("mixed.pem");
        std::fs::write(&mixed, std::fs::read_to_string(ca.ca()).unwrap() + hollow).unwrap();
        let (roots, warning) = trust_anchors(&mixed).unwrap();
        assert_eq!(
            (roots.len(), warning),
            (1, Some(Warning::IgnoredRoots { path: mixed.clone(), count: 1 }))
        );

        std::fs::write(&mixed, hollow).unwrap();
        assert!(matches!(trust_anchors(&mixed), Err(CredentialError::BadCertificate { .. })));
    }
}
