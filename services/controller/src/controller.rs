//! The controller as a whole.
use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tidegate_contracts::ListenConfig;
use tidegate_ledger::{ArtifactStore, Holder, Ledger};
use tidegate_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::{
    ControllerConfig, ControllerError, api,
    desk::Desk,
    grpc,
    guard::{MAX_REQUEST_BYTES, guard},
    lag::Lag,
    lead::lead,
    pages,
    schedule::Schedule,
};

/// Turns schedule and lag into jobs, verdicts into promotions by policy, and approvals into
/// promotions by hand.
///
/// [`grpc`](Self::grpc) and [`http`](Self::http) are its doors, to be put on whatever sockets there
/// are: they answer, and decide for operators, on every controller. [`run`](Self::run) is its own
/// hand: of all controllers on one ledger, the one that holds the lease acts.
pub struct Controller {
    desk: Arc<Desk>,
}

impl Controller {
    /// A controller that does nothing yet.
    ///
    /// # Errors
    /// [`ControllerError::Config`] names the field.
    pub fn new(
        config: ControllerConfig,
        stream: Stream,
        ledger: Ledger,
        artifacts: ArtifactStore,
        listen: ListenConfig,
    ) -> Result<Self, ControllerError> {
        config.validate()?;
        let schedule = Schedule::parse(&config.schedule)?;
        let (lag, closing) = (Lag::default(), CancellationToken::new());
        let desk = Desk { config, schedule, stream, ledger, artifacts, listen, lag, closing };
        Ok(Self { desk: Arc::new(desk) })
    }

    /// Adds `tidegate.v1.Control`.
    pub fn grpc(&self, routes: &mut RoutesBuilder) {
        routes.add_service(grpc::service(self.desk.clone()));
    }

    /// The same over HTTP and JSON under `/api/v1`, and the dashboard.
    pub fn http(&self) -> Router {
        api::routes()
            .merge(pages::routes())
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .layer(middleware::from_fn_with_state(self.desk.clone(), guard))
            .with_state(self.desk.clone())
    }

    /// Counts what waits, and acts whenever the lease is held, until `shutdown`. What is away is
    /// waited for.
    ///
    /// # Errors
    /// When this process has no key to sign promotions with.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let desk = &self.desk;
        desk.ledger.can_sign_for(&Holder::Controller)?;
        tokio::join!(
            desk.lag.follow(&desk.stream, &desk.ledger, &shutdown),
            lead(desk, &shutdown),
            async {
                shutdown.cancelled().await;
                desk.closing.cancel();
            }
        );
        Ok(())
    }
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("config", &self.desk.config).finish_non_exhaustive()
    }
}
