//! The page of an agent on the loopback, for whoever may open the agent's socket: what a browser asks
//! is asked there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use evenkeel_desk::serve::Problem;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// What is asked of these routes is asked of the agent that listens on `socket`.
pub fn page(socket: &Path) -> Router {
    Router::new().fallback(pass_on).with_state(Arc::new(socket.to_owned()))
}

async fn pass_on(State(socket): State<Arc<PathBuf>>, request: Request) -> Response {
    match converse(&socket, request).await {
        Ok(answer) => answer,
        Err(why) => {
            let socket = socket.display();
            let why = format!(
                "no agent answers at `{socket}`: {why}; see that it runs: systemctl status evenkeel"
            );
            Problem::new(StatusCode::BAD_GATEWAY, why).into_response()
        }
    }
}

async fn converse(socket: &Path, mut request: Request) -> Result<Response, String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    // Ends with the answer, however long that is streamed.
    tokio::spawn(connection);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = path.parse().map_err(|_| "no path".to_owned())?;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    // The cookie is between the browser and this page.
    for name in [header::COOKIE, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.insert(header::HOST, HeaderValue::from_static("evenkeel"));
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let (mut parts, body) = answer.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Body::new(body)))
}
