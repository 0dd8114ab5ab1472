//! `tidegate.v1.Control`.
use futures::{StreamExt as _, stream::BoxStream};
use tidegate_contracts::{
    AccessError, Role,
    proto::v1::{
        self,
        control_server::{Control, ControlServer},
    },
};
use tonic::{Request, Response, Status};

use crate::{
    api::{ApiError, Shared, kind},
    view,
};

pub(crate) fn service(controller: Shared) -> ControlServer<Service> {
    ControlServer::new(Service(controller))
}

pub(crate) struct Service(Shared);

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::Access(AccessError::Forbidden { .. }) => Self::permission_denied(message),
            ApiError::Access(_) => Self::unauthenticated(message),
            ApiError::Invalid(_) => Self::invalid_argument(message),
            ApiError::NotFound(_) => Self::not_found(message),
            ApiError::Refused(_) => Self::failed_precondition(message),
            ApiError::Unavailable(_) => Self::unavailable(message),
            ApiError::Internal(_) => Self::internal(message),
        }
    }
}

fn authorization<T>(request: &Request<T>) -> Option<&str> {
    request.metadata().get("authorization")?.to_str().ok()
}

impl Service {
    fn viewer<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.0.caller(authorization(request), Role::Viewer, "").map_err(Status::from)?;
        Ok(())
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Answers with what the API function gives.
macro_rules! answer {
    ($call:expr) => {
        Ok(Response::new($call.await.map_err(Status::from)?))
    };
}

#[tonic::async_trait]
impl Control for Service {
    async fn get_overview(&self, request: Request<v1::GetOverviewRequest>) -> Answer<v1::Overview> {
        self.viewer(&request)?;
        answer!(self.0.overview())
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Answer<v1::ListJobsResponse> {
        self.viewer(&request)?;
        answer!(self.0.jobs(request.get_ref().limit))
    }

    async fn list_generations(
        &self,
        request: Request<v1::ListGenerationsRequest>,
    ) -> Answer<v1::ListGenerationsResponse> {
        self.viewer(&request)?;
        answer!(self.0.generations(request.get_ref().limit))
    }

    async fn get_generation(
        &self,
        request: Request<v1::GetGenerationRequest>,
    ) -> Answer<v1::Generation> {
        self.viewer(&request)?;
        answer!(self.0.generation(&request.get_ref().id))
    }

    async fn list_verdicts(
        &self,
        request: Request<v1::ListVerdictsRequest>,
    ) -> Answer<v1::ListVerdictsResponse> {
        self.viewer(&request)?;
        answer!(self.0.verdicts(request.get_ref().limit))
    }

    async fn get_verdict(&self, request: Request<v1::GetVerdictRequest>) -> Answer<v1::Verdict> {
        self.viewer(&request)?;
        answer!(self.0.verdict(&request.get_ref().id))
    }

    async fn request_job(
        &self,
        request: Request<v1::RequestJobRequest>,
    ) -> Answer<v1::RequestJobResponse> {
        let asked = request.get_ref();
        let actor = self.0.caller(authorization(&request), Role::Operator, &asked.actor)?;
        answer!(self.0.request_job(kind(&asked.kind)?, actor, &asked.reason))
    }

    async fn approve(&self, request: Request<v1::ApproveRequest>) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(authorization(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.approve(&asked.generation, &asked.verdict, by))
    }

    async fn reject(&self, request: Request<v1::RejectRequest>) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(authorization(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.reject(&asked.generation, by))
    }

    async fn withdraw_approval(
        &self,
        request: Request<v1::WithdrawApprovalRequest>,
    ) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(authorization(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.withdraw(&asked.generation, by))
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(authorization(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.promote(&asked.generation, by))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(authorization(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.rollback(&asked.generation, by))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Answer<v1::ListEntriesResponse> {
        self.viewer(&request)?;
        answer!(self.0.entries(request.get_ref().from, request.get_ref().limit))
    }

    type WatchEntriesStream = BoxStream<'static, Result<v1::LedgerEntry, Status>>;

    async fn watch_entries(
        &self,
        request: Request<v1::WatchEntriesRequest>,
    ) -> Answer<Self::WatchEntriesStream> {
        self.viewer(&request)?;
        let entries = self.0.ledger.watch(request.get_ref().from.max(1)).map(|entry| {
            entry.map(|entry| view::entry(&entry)).map_err(|e| ApiError::from(e).into())
        });
        Ok(Response::new(entries.boxed()))
    }

    async fn verify_ledger(
        &self,
        request: Request<v1::VerifyLedgerRequest>,
    ) -> Answer<v1::VerifyLedgerResponse> {
        self.viewer(&request)?;
        answer!(self.0.verify_ledger())
    }
}
