//! quinn over rustls, with moorline's certificate pinned by its hash.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use moorline::{CertHash, DEFAULT_ALPN};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ConnectionError, Endpoint, RecvStream, SendStream, ServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::{ANY_PORT, FrameReader, Incoming, LIMIT, Outgoing, PeerCertificate, within};

/// The name a quinn client asks for: moorline has no use for it, and rustls must have one.
const SERVER_NAME: &str = "localhost";

/// What a quinn peer shows, and whom it takes.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Its certificate; a server must have one.
    pub certificate: Option<&'a PeerCertificate>,
    /// The only peer it takes.
    pub pinned: CertHash,
    /// The protocol it speaks.
    pub alpn: &'a str,
}

impl<'a> Settings<'a> {
    /// A peer that shows `certificate`, takes `pinned` alone and speaks what moorline does.
    #[must_use]
    pub fn new(certificate: &'a PeerCertificate, pinned: CertHash) -> Self {
        Self { certificate: Some(certificate), pinned, alpn: DEFAULT_ALPN }
    }
}

/// An endpoint that takes connections.
///
/// # Errors
///
/// If there is no certificate, or it cannot be used.
pub fn listener(settings: &Settings<'_>) -> Result<Endpoint> {
    let certificate = settings.certificate.context("a server needs a certificate")?;
    let provider = Arc::new(ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Pinned { hash: settings.pinned, provider }))
        .with_single_cert(chain(certificate), key(certificate).into())?;
    tls.alpn_protocols = vec![settings.alpn.as_bytes().to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    Ok(Endpoint::server(config, ANY_PORT)?)
}

/// An endpoint that dials.
///
/// # Errors
///
/// If the certificate cannot be used.
pub fn dialler(settings: &Settings<'_>) -> Result<Endpoint> {
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { hash: settings.pinned, provider }));
    let mut tls = match settings.certificate {
        Some(certificate) => {
            builder.with_client_auth_cert(chain(certificate), key(certificate).into())?
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![settings.alpn.as_bytes().to_vec()];
    let mut endpoint = Endpoint::client(ANY_PORT)?;
    endpoint
        .set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    Ok(endpoint)
}

fn chain(certificate: &PeerCertificate) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from(certificate.certificate_der().to_vec())]
}

fn key(certificate: &PeerCertificate) -> PrivatePkcs8KeyDer<'static> {
    PrivatePkcs8KeyDer::from(certificate.key_der().to_vec())
}

/// A connection of quinn's, with a stream in each direction that is opened when it is first used.
#[derive(Debug)]
pub struct QuinnLink {
    /// The connection itself.
    pub connection: quinn::Connection,
    /// The stream of this end.
    pub out: QuinnOut,
    /// The frames on moorline's first stream.
    pub frames: FrameReader<QuinnIn>,
}

impl QuinnLink {
    /// Dials `address` from `endpoint`.
    ///
    /// # Errors
    ///
    /// If the handshake fails on this side. A refusal of this side's certificate shows later.
    pub async fn dial(endpoint: &Endpoint, address: std::net::SocketAddr) -> Result<Self> {
        let connecting = endpoint.connect(address, SERVER_NAME)?;
        Ok(Self::new(within(LIMIT, "quinn dials", connecting).await?))
    }

    /// The next connection that `endpoint` takes.
    ///
    /// # Errors
    ///
    /// If the handshake fails.
    pub async fn accept(endpoint: &Endpoint) -> Result<Self> {
        let incoming = within(LIMIT, "quinn is dialled", endpoint.accept()).await;
        let incoming = incoming.context("the endpoint is closed")?;
        Ok(Self::new(within(LIMIT, "quinn takes a connection", incoming).await?))
    }

    fn new(connection: quinn::Connection) -> Self {
        let out = QuinnOut { connection: connection.clone(), stream: None };
        let frames = FrameReader::new(QuinnIn { connection: connection.clone(), stream: None });
        Self { connection, out, frames }
    }

    /// Waits until moorline has closed the connection; why, as quinn sees it.
    pub async fn closed(&self) -> ConnectionError {
        within(LIMIT, "quinn learns of the close", self.connection.closed()).await
    }
}

/// The code with which the peer's application closed a connection, if it did.
#[must_use]
pub fn application_code(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

/// The TLS alert with which the peer ended a connection, if it did.
#[must_use]
pub fn tls_alert(error: &ConnectionError) -> Option<u64> {
    // RFC 9001, section 4.8: alerts are the transport errors 0x100 to 0x1ff.
    match error {
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code).checked_sub(0x100),
        _ => None,
    }
}

/// The sending stream of a [`QuinnLink`].
#[derive(Debug)]
pub struct QuinnOut {
    connection: quinn::Connection,
    stream: Option<SendStream>,
}

impl QuinnOut {
    async fn stream(&mut self) -> Result<&mut SendStream> {
        match &mut self.stream {
            Some(stream) => Ok(stream),
            none => Ok(none.insert(self.connection.open_uni().await?)),
        }
    }
}

impl Outgoing for QuinnOut {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.stream().await?.write_chunk(bytes).await?)
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(self.stream().await?.finish()?)
    }
}

/// The receiving stream of a [`QuinnLink`].
#[derive(Debug)]
pub struct QuinnIn {
    connection: quinn::Connection,
    stream: Option<RecvStream>,
}

impl Incoming for QuinnIn {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.connection.accept_uni().await?),
        };
        Ok(stream.read_chunk(usize::MAX, true).await?.map(|chunk| chunk.bytes))
    }
}

/// Takes one certificate and no other, whatever its names, issuer and period; the handshake still
/// proves that the peer has its key.
#[derive(Debug)]
struct Pinned {
    hash: CertHash,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if CertHash::of_der(leaf) == self.hash {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// QUIC has no TLS 1.2.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
