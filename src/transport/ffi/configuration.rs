//! Settings and a credential.

use std::ffi::c_void;
use std::fmt;

use msquic::ffi::HQUIC;

use super::exit_guard;
use super::quic_settings::QuicSettings;
use super::raw::{CLOSED, RawHandle, call, check, status, with_buffers};
use super::registration::Registration;
use crate::error::LibraryError;
use crate::identity::Pkcs12;

/// Settings and a loaded credential; connections keep it alive inside MsQuic.
pub(in crate::transport) struct Configuration(RawHandle);

// SAFETY: a configuration is immutable after its credential was loaded.
unsafe impl Sync for Configuration {}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configuration")
    }
}

/// Which end a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Configuration {
    pub(in crate::transport) fn open(
        registration: &Registration,
        alpns: &[String],
        settings: &QuicSettings,
    ) -> Result<Self, LibraryError> {
        let aborted = LibraryError { status: status::ABORTED };
        let _exit_waits = exit_guard::begin().ok_or(aborted)?;
        let mut handle: HQUIC = std::ptr::null_mut();
        let status = with_buffers(alpns, |buffers, count| {
            // SAFETY: names and settings outlive the call, which copies them (ConfigurationOpen).
            unsafe {
                call!(ConfigurationOpen)(
                    registration.handle.as_ptr(),
                    buffers,
                    count,
                    settings.as_ptr(),
                    QuicSettings::SIZE,
                    std::ptr::null_mut::<c_void>(),
                    &raw mut handle,
                )
            }
        });
        check(status)?;
        let handle = RawHandle::new(handle).ok_or(CLOSED)?;
        exit_guard::configuration_opened(handle);
        Ok(Self(handle))
    }

    /// Loads the own certificate and asks for the peer's in the certificate event, where this
    /// crate alone decides about it (QUIC_CREDENTIAL_CONFIG).
    pub(in crate::transport) fn load_credential(
        &self,
        pkcs12: &Pkcs12,
        role: Role,
    ) -> Result<(), LibraryError> {
        use msquic::CredentialFlags;
        use msquic::ffi as q;
        let side = match role {
            Role::Client => CredentialFlags::CLIENT,
            Role::Server => CredentialFlags::REQUIRE_CLIENT_AUTHENTICATION,
        };
        let flags = CredentialFlags::INDICATE_CERTIFICATE_RECEIVED
            | CredentialFlags::USE_PORTABLE_CERTIFICATES
            | CredentialFlags::NO_CERTIFICATE_VALIDATION
            | side;
        let aborted = LibraryError { status: status::ABORTED };
        let _exit_waits = exit_guard::begin().ok_or(aborted)?;
        let der = pkcs12.as_bytes();
        // The crate's own types would keep a copy of the key that nobody wipes.
        let mut packed = q::QUIC_CERTIFICATE_PKCS12 {
            Asn1Blob: der.as_ptr(),
            Asn1BlobLength: u32::try_from(der.len()).map_err(|_| aborted)?,
            PrivateKeyPassword: std::ptr::null(),
        };
        let config = q::QUIC_CREDENTIAL_CONFIG {
            Type: q::QUIC_CREDENTIAL_TYPE_QUIC_CREDENTIAL_TYPE_CERTIFICATE_PKCS12,
            Flags: flags.bits(),
            __bindgen_anon_1: q::QUIC_CREDENTIAL_CONFIG__bindgen_ty_1 {
                CertificatePkcs12: &raw mut packed,
            },
            Principal: std::ptr::null(),
            Reserved: std::ptr::null_mut(),
            AsyncHandler: None,
            AllowedCipherSuites: 0,
            CaCertificateFile: std::ptr::null(),
        };
        // SAFETY: the handle is open while `self` lives; what `config` points to outlives the call,
        // which is done with it when it returns (ConfigurationLoadCredential, not asynchronous).
        check(unsafe { call!(ConfigurationLoadCredential)(self.0.as_ptr(), &raw const config) })
    }

    pub(super) fn as_ptr(&self) -> HQUIC {
        self.0.as_ptr()
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        let _exit_waits = exit_guard::begin_anyway();
        if !exit_guard::configuration_closing(self.0) {
            return;
        }
        // SAFETY: closed once; connections that use it hold references of their own
        // (ConfigurationClose).
        unsafe { call!(ConfigurationClose)(self.0.as_ptr()) }
    }
}
