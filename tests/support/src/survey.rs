//! How machines in one process answer the question of a member whether it still has its place.
use tern::codec::cluster_api;
use tern::codec::http::call::HttpReply;
use tern::core::machine::{
    Call, CallAnswer, Machine, MemberPlace, Outcome, Query, Question, Reply,
};
use tern::core::timer::Now;

/// The place that a call asks about; `None` for any other question.
pub fn asked_place(call: &Call) -> Option<MemberPlace> {
    match call.question {
        Question::Machines { of } => of,
        _ => None,
    }
}

/// The reply of the machine at the address of a call; `None`: there is none.
pub fn reply(call: &Call, place: MemberPlace, asked: Option<&Machine>, now: Now) -> Reply {
    let outcome = asked.and_then(|asked| asked.query(now, &Query::MachinesOf(place)));
    match outcome {
        Some(Outcome::MachineList(machines)) => Reply::Answered {
            foreign: None,
            answer: Ok(CallAnswer::Machines(machines)),
        },
        Some(Outcome::Failed(error)) => {
            let body = format!(
                r#"{{"errorCode":{},"message":"","cause":"{}","index":0}}"#,
                error.code as u64, error.cause
            );
            let response = HttpReply::Answered {
                status: 500,
                server: "tern/0".into(),
                body: body.into_bytes().into(),
            };
            cluster_api::reply(&call.question, response)
        }
        Some(_) | None => Reply::Failed {
            why: "no member answers".into(),
        },
    }
}
