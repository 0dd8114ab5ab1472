//! `tidegate.v1.Control` over gRPC.
use std::sync::Arc;

use futures::{StreamExt as _, stream, stream::BoxStream};
use tidegate_contracts::{
    Role,
    proto::v1::{
        self,
        control_server::{Control, ControlServer},
    },
};
use tonic::{Request, Response, Status};

use crate::{
    caller::Caller,
    decide::{Yes, envelope},
    desk::Desk,
    error::Refused,
    guard, view,
};

pub(crate) fn service(desk: Arc<Desk>) -> ControlServer<Door> {
    ControlServer::new(Door(desk)).max_decoding_message_size(guard::MAX_REQUEST_BYTES)
}

pub(crate) struct Door(Arc<Desk>);

fn caller<T>(request: &Request<T>) -> Caller {
    Caller::of_call(request.metadata())
}

impl Door {
    fn viewer<T>(&self, request: &Request<T>) -> Result<(), Status> {
        Ok(self.0.admit(&caller(request), Role::Viewer)?)
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Answers with what the desk gives.
macro_rules! answer {
    ($call:expr) => {
        Ok(Response::new($call.await?))
    };
}

#[tonic::async_trait]
impl Control for Door {
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

    async fn get_model_card(
        &self,
        request: Request<v1::GetModelCardRequest>,
    ) -> Answer<v1::ModelCard> {
        self.viewer(&request)?;
        answer!(self.0.card(&request.get_ref().id))
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
        let by = self.0.by_operator(&caller(&request), &asked.actor, &asked.reason)?;
        let order = self.0.order(&asked.kind, &asked.domain, &asked.source).await?;
        answer!(self.0.request_job(order, by))
    }

    async fn approve(&self, request: Request<v1::ApproveRequest>) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        let (generation, verdict) = (asked.generation.clone(), asked.verdict.clone());
        let envelope = envelope(&asked.envelope)?;
        answer!(self.0.approve(Yes { generation, verdict, envelope, ..Yes::default() }, by))
    }

    async fn r#override(
        &self,
        request: Request<v1::OverrideRequest>,
    ) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        let (generation, verdict) = (asked.generation.clone(), asked.verdict.clone());
        let envelope = envelope(&asked.envelope)?;
        let yes = Yes { generation, verdict, envelope, ..Yes::default() };
        answer!(self.0.approve(yes.waiving(asked.waives.clone())?, by))
    }

    async fn reject(&self, request: Request<v1::RejectRequest>) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.reject(&asked.generation, by))
    }

    async fn withdraw_approval(
        &self,
        request: Request<v1::WithdrawApprovalRequest>,
    ) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.withdraw(&asked.generation, by))
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.promote(&asked.generation, by))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Answer<v1::DecisionResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.rollback(&asked.generation, by))
    }

    async fn quarantine_producer(
        &self,
        request: Request<v1::ProducerRequest>,
    ) -> Answer<v1::ProducersResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.set_aside(&asked.producer, true, by))
    }

    async fn release_producer(
        &self,
        request: Request<v1::ProducerRequest>,
    ) -> Answer<v1::ProducersResponse> {
        let asked = request.get_ref();
        let by = self.0.by(&caller(&request), &asked.actor, &asked.reason)?;
        answer!(self.0.set_aside(&asked.producer, false, by))
    }

    async fn list_producers(
        &self,
        request: Request<v1::ListProducersRequest>,
    ) -> Answer<v1::ProducersResponse> {
        self.viewer(&request)?;
        answer!(self.0.producers())
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
        let entries = self.0.watch(request.get_ref().from);
        let entries = entries.map(|entry| match entry {
            Ok(entry) => Ok(view::entry(&entry)),
            Err(error) => Err(Refused::from(error).into()),
        });
        // A stream without end that ends: say why, or a client takes it for the ledger's end.
        let bye = "the controller is shutting down: watch again from the entry after the last";
        let bye = stream::once(async move { Err(Status::unavailable(bye)) });
        Ok(Response::new(entries.chain(bye).boxed()))
    }

    async fn verify_ledger(
        &self,
        request: Request<v1::VerifyLedgerRequest>,
    ) -> Answer<v1::VerifyLedgerResponse> {
        self.viewer(&request)?;
        answer!(self.0.verify(request.get_ref().artifacts))
    }
}
