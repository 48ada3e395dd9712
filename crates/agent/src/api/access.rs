//! Who asks an agent, and for what they may.
//!
//! Whoever reaches the socket of the host itself may ask for everything. Another member of the
//! cluster, whom its certificate names, may ask for what this host's configuration grants.

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use evenkeel_core::model::HostId;

use crate::config::Members;
use crate::request::Problem;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Somebody on this host.
    Local,
    /// Another host of the cluster.
    Member(Member),
}

/// Another host of the cluster that asks this one.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) host: HostId,
    pub(crate) here: HostId,
    pub(crate) may: Members,
}

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    Operate,
    /// To be on this host: what could make a machine run twice, change who is in the cluster, or be
    /// passed on to a third host.
    Own,
}

impl Member {
    fn refusal(&self, need: Need) -> Option<String> {
        let here = &self.here;
        let wanted = match need {
            Need::Read if self.may >= Members::Read => return None,
            Need::Operate if self.may >= Members::Operate => return None,
            Need::Own => {
                return Some(format!(
                    "host `{here}` does that only when it is asked on that host itself: run the \
                     command there"
                ));
            }
            Need::Read => "read",
            Need::Operate => "operate",
        };
        Some(format!(
            "host `{here}` does not do that for other hosts: run the command there, or set \
             `members = \"{wanted}\"` under `[api]` in its configuration (docs/security.md says what \
             that grants)"
        ))
    }
}

/// Lets a request pass, or says why not.
pub(crate) async fn check(
    State(need): State<Need>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    if let Caller::Member(member) = &caller {
        if let Some(error) = member.refusal(need) {
            return (StatusCode::FORBIDDEN, Json(Problem { error })).into_response();
        }
        if need != Need::Read {
            let (host, what) = (&member.host, request.uri().path());
            tracing::info!(%host, method = %request.method(), what, "another host asks");
        }
    }
    next.run(request).await
}
