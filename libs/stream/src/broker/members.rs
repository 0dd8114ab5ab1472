//! Requests of group members: join, sync, heartbeat, leave; and questions about groups.
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::{
    ResponseError as Code,
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
        GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
        SyncGroupRequest, SyncGroupResponse,
        delete_groups_response::DeletableGroupResult,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        join_group_response::JoinGroupResponseMember,
        leave_group_response::MemberResponse,
        list_groups_response::ListedGroup,
    },
    protocol::StrBytes,
};
use tokio::sync::oneshot;

use super::{
    about::NO_OPERATIONS,
    groups::{Group, Join, JoinAnswer, Phase, SyncAnswer},
    node::{Caller, Node},
};

/// The longest a member may be silent, or a round may take (Kafka's own default).
const LONGEST: Duration = Duration::from_secs(1_800);
/// A group's state that nobody is in.
const EMPTY: &str = "Empty";
const DEAD: &str = "Dead";

impl Node {
    pub(crate) async fn join_group(
        &self,
        caller: &Caller,
        request: JoinGroupRequest,
    ) -> JoinGroupResponse {
        let member = request.member_id.clone();
        let answer = match self.ask_to_join(caller, request) {
            // The sender is dropped when the same member asks again on another connection.
            Ok(told) => told.await.unwrap_or(Err((Code::RebalanceInProgress, member.to_string()))),
            Err(code) => Err((code, member.to_string())),
        };
        match answer {
            Ok(joined) => {
                let members = joined.members.into_iter().map(|(name, instance, metadata)| {
                    JoinGroupResponseMember::default()
                        .with_member_id(name.into())
                        .with_group_instance_id(instance.map(StrBytes::from_string))
                        .with_metadata(metadata)
                });
                JoinGroupResponse::default()
                    .with_generation_id(joined.generation)
                    .with_protocol_type(Some(joined.kind.into()))
                    .with_protocol_name(Some(joined.protocol.into()))
                    .with_leader(joined.leader.into())
                    .with_member_id(joined.member.into())
                    .with_members(members.collect())
            }
            Err((code, member)) => JoinGroupResponse::default()
                .with_error_code(code.code())
                .with_generation_id(-1)
                // Before version 7 there is no way to say none.
                .with_protocol_name((caller.version < 7).then(StrBytes::new))
                .with_member_id(member.into()),
        }
    }

    fn ask_to_join(
        &self,
        caller: &Caller,
        request: JoinGroupRequest,
    ) -> Result<oneshot::Receiver<JoinAnswer>, Code> {
        let session = milliseconds(request.session_timeout_ms);
        let session = session.ok_or(Code::InvalidSessionTimeout)?;
        let protocols = request.protocols.into_iter();
        let join = Join {
            member: request.member_id.to_string(),
            instance: request.group_instance_id.map(|instance| instance.to_string()),
            client: caller.client.clone(),
            host: caller.host.clone(),
            session,
            // Version 0 has one time for both.
            rebalance: milliseconds(request.rebalance_timeout_ms).unwrap_or(session),
            kind: request.protocol_type.to_string(),
            protocols: protocols.map(|p| (p.name.to_string(), p.metadata)).collect(),
            name_first: caller.version >= 4,
        };
        let (answer, told) = oneshot::channel();
        self.groups.enter(&request.group_id)?.join(Instant::now(), join, answer);
        Ok(told)
    }

    pub(crate) async fn sync_group(&self, request: SyncGroupRequest) -> SyncGroupResponse {
        let answer = match self.ask_for_share(request) {
            Ok(told) => told.await.unwrap_or(Err(Code::RebalanceInProgress)),
            Err(code) => Err(code),
        };
        match answer {
            Ok((kind, protocol, share)) => SyncGroupResponse::default()
                .with_protocol_type(Some(kind.into()))
                .with_protocol_name(Some(protocol.into()))
                .with_assignment(share),
            Err(code) => SyncGroupResponse::default().with_error_code(code.code()),
        }
    }

    fn ask_for_share(
        &self,
        request: SyncGroupRequest,
    ) -> Result<oneshot::Receiver<SyncAnswer>, Code> {
        let mut group = self.groups.find(&request.group_id).ok_or(Code::UnknownMemberId)?;
        let other =
            |said: &Option<StrBytes>, ours: &str| said.as_ref().is_some_and(|s| **s != *ours);
        if other(&request.protocol_type, &group.kind)
            || other(&request.protocol_name, &group.protocol)
        {
            return Err(Code::InconsistentGroupProtocol);
        }
        let shares = request.assignments.into_iter();
        let shares = shares.map(|share| (share.member_id.to_string(), share.assignment)).collect();
        let who =
            (&*request.member_id, request.group_instance_id.as_deref(), request.generation_id);
        let (answer, told) = oneshot::channel();
        group.sync(Instant::now(), who, shares, answer);
        Ok(told)
    }

    pub(crate) fn heartbeat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let who =
            (&*request.member_id, request.group_instance_id.as_deref(), request.generation_id);
        let group = self.groups.find(&request.group_id).ok_or(Code::UnknownMemberId);
        let alive = group.and_then(|mut group| group.heartbeat(Instant::now(), who));
        HeartbeatResponse::default().with_error_code(code_of(alive))
    }

    pub(crate) fn leave_group(
        &self,
        caller: &Caller,
        request: LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        let leave = |name: &str, instance: Option<&str>| {
            let group = self.groups.find(&request.group_id).ok_or(Code::UnknownMemberId);
            group.and_then(|mut group| group.leave(Instant::now(), name, instance))
        };
        if caller.version < 3 {
            let left = leave(&request.member_id, None).map(drop);
            return LeaveGroupResponse::default().with_error_code(code_of(left));
        }
        let members = request.members.iter().map(|member| {
            let left = leave(&member.member_id, member.group_instance_id.as_deref());
            MemberResponse::default()
                .with_member_id(member.member_id.clone())
                .with_group_instance_id(member.group_instance_id.clone())
                .with_error_code(code_of(left.map(drop)))
        });
        LeaveGroupResponse::default().with_members(members.collect())
    }

    pub(crate) fn describe_groups(
        &self,
        caller: &Caller,
        request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let describe = |id: GroupId| {
            let answer = DescribedGroup::default()
                .with_group_id(id.clone())
                .with_authorized_operations(NO_OPERATIONS);
            if let Some(group) = self.groups.find(&id) {
                return described(answer, &group);
            }
            if self.storage.committed(&id).is_some() {
                return answer.with_group_state(StrBytes::from_static_str(EMPTY));
            }
            let unknown = if caller.version >= 6 { Code::GroupIdNotFound.code() } else { 0 };
            answer.with_group_state(StrBytes::from_static_str(DEAD)).with_error_code(unknown)
        };
        let groups = request.groups.into_iter().map(describe).collect();
        DescribeGroupsResponse::default().with_groups(groups)
    }

    pub(crate) fn list_groups(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        let mut listed =
            self.groups.each(|id, group| (id.to_owned(), group.kind.clone(), group.phase.name()));
        for id in self.storage.groups() {
            if !listed.iter().any(|(known, ..)| *known == id) {
                listed.push((id, "consumer".to_owned(), EMPTY));
            }
        }
        let among = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        listed.retain(|(_, _, state)| {
            among(&request.states_filter, state) && among(&request.types_filter, "classic")
        });
        let groups = listed.into_iter().map(|(id, kind, state)| {
            ListedGroup::default()
                .with_group_id(GroupId(id.into()))
                .with_protocol_type(kind.into())
                .with_group_state(StrBytes::from_static_str(state))
                .with_group_type(StrBytes::from_static_str("classic"))
        });
        ListGroupsResponse::default().with_groups(groups.collect())
    }

    pub(crate) fn delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let results = request.groups_names.into_iter().map(|id| {
            let deleted = self.delete_group(&id);
            DeletableGroupResult::default().with_group_id(id).with_error_code(code_of(deleted))
        });
        DeleteGroupsResponse::default().with_results(results.collect())
    }

    fn delete_group(&self, id: &str) -> Result<(), Code> {
        if self.groups.find(id).is_some_and(|group| !group.members.is_empty()) {
            return Err(Code::NonEmptyGroup);
        }
        match self.storage.delete_group(id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Code::GroupIdNotFound),
            Err(error) => {
                tracing::error!(group = id, %error, "a group could not be deleted");
                Err(Code::KafkaStorageError)
            }
        }
    }
}

fn described(answer: DescribedGroup, group: &Group) -> DescribedGroup {
    let at_rest = group.phase == Phase::Stable;
    let members = group.members.iter().map(|(name, member)| {
        let metadata = if at_rest { member.metadata(&group.protocol) } else { Bytes::new() };
        DescribedGroupMember::default()
            .with_member_id(name.clone().into())
            .with_group_instance_id(member.instance.clone().map(StrBytes::from_string))
            .with_client_id(member.client.clone().into())
            .with_client_host(format!("/{}", member.host).into())
            .with_member_metadata(metadata)
            .with_member_assignment(member.share.clone())
    });
    answer
        .with_group_state(StrBytes::from_static_str(group.phase.name()))
        .with_protocol_type(group.kind.clone().into())
        .with_protocol_data(group.protocol.clone().into())
        .with_members(members.collect())
}

fn milliseconds(ms: i32) -> Option<Duration> {
    let time = Duration::from_millis(u64::try_from(ms).ok().filter(|&ms| ms > 0)?);
    Some(time.min(LONGEST))
}

fn code_of(done: Result<(), Code>) -> i16 {
    done.map_or_else(|code| code.code(), |()| 0)
}
