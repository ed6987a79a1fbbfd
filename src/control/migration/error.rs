//! Why a call about migrations was refused; nothing was changed then.

use crate::instance::ProviderError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("there is no service `{0}`")]
    NoService(String),
    #[error("there is no migration {0}; GET /v1/migrations lists them")]
    NoMigration(u64),
    #[error("migration {0} of this service is under way; cancel it first, or wait for its end")]
    UnderWay(u64),
    /// `to` or an option of the request.
    #[error("{0}")]
    Bad(String),
    /// Not in the phase that the migration is in.
    #[error("{0}")]
    NotNow(String),
    #[error("Segue is being upgraded or is ending; try again when that is over")]
    Ending,
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
