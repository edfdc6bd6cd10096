//! `keygen`, `id` and `version`: what needs no node.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use moorline::{CertHash, NetCredential, SignerKey, SigningKey, key_prefixes};
use serde::Serialize;

use crate::app::arguments::KeygenArgs;
use crate::app::output::Output;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Answer<'a> {
    Credential {
        identity: CertHash,
        certificate: &'a Path,
        key: &'a Path,
        signers: Vec<SignerKey>,
    },
    SigningKey {
        public: SignerKey,
        key: &'a Path,
    },
    Identity {
        identity: CertHash,
        key: String,
        #[serde(skip)]
        verbose: bool,
    },
    Version {
        version: &'a str,
        msquic: String,
        linkage: &'a str,
        debug: bool,
        affected: bool,
    },
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential { identity, certificate, key, signers } => {
                writeln!(f, "certificate {}", certificate.display())?;
                writeln!(f, "key         {}", key.display())?;
                for signer in signers {
                    writeln!(f, "signed by   {signer}")?;
                }
                write!(f, "identity    {identity}")
            }
            Self::SigningKey { public, key } => {
                write!(f, "key    {}\npublic {public}", key.display())
            }
            // What is asked for, and nothing that a shell would have to cut off.
            Self::Identity { identity, verbose: false, .. } => identity.fmt(f),
            Self::Identity { identity, key, verbose: true } => {
                write!(f, "identity {identity}\n{key}")
            }
            Self::Version { version, msquic, linkage, debug, affected } => {
                let debug = if *debug { ", a debug build" } else { "" };
                write!(f, "moorline {version}\nMsQuic   {msquic} ({linkage}{debug})")?;
                if *affected {
                    f.write_str(" with known faults: see SECURITY.md")?;
                }
                Ok(())
            }
        }
    }
}

pub(crate) fn keygen(out: Output, args: &KeygenArgs) -> Result<()> {
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the directory {}", args.out.display()))?;
    if args.signing_key { signing_key(out, &args.out) } else { credential(out, args) }
}

fn credential(out: Output, args: &KeygenArgs) -> Result<()> {
    let keys: Vec<SigningKey> = args
        .sign_with
        .iter()
        .map(|path| SigningKey::from_file(path))
        .collect::<Result<_, _>>()
        .context("cannot sign")?;
    let credential = NetCredential::generate_self_signed(&[&args.name], &keys)?;
    let (certificate, key) = (args.out.join("cert.pem"), args.out.join("key.pem"));
    credential.write_files(&certificate, &key)?;
    out.line(&Answer::Credential {
        identity: credential.identity(),
        certificate: &certificate,
        key: &key,
        signers: keys.iter().map(SigningKey::public).collect(),
    })
}

fn signing_key(out: Output, directory: &Path) -> Result<()> {
    let path = directory.join("signing-key.pem");
    let key = SigningKey::generate();
    write_secret(&path, key.to_pkcs8_pem().as_bytes())?;
    out.line(&Answer::SigningKey { public: key.public(), key: &path })
}

/// Writes a file that is its owner's alone from the start, and overwrites nothing.
fn write_secret(path: &Path, secret: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make {}: choose another --out", path.display()))?;
    file.write_all(secret)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn id(out: Output, path: &Path, verbose: bool) -> Result<()> {
    let der = moorline::read_certificate(path)?;
    let key = key_prefixes(&der);
    if key.subject.is_empty() {
        bail!("{} holds no certificate that can be read: give a PEM or DER one", path.display());
    }
    let (identity, key) = (CertHash::of_der(&der), key.to_string());
    out.line(&Answer::Identity { identity, key, verbose })
}

pub(crate) fn version(out: Output) -> Result<()> {
    let library = moorline::msquic_version();
    out.line(&Answer::Version {
        version: env!("CARGO_PKG_VERSION"),
        msquic: library.to_string(),
        linkage: moorline::LINKAGE,
        debug: moorline::msquic_is_debug_build(),
        affected: library.is_affected(),
    })
}
