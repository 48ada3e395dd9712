//! Who is let in to a page on the loopback: whoever follows its one-time link.
//!
//! `evenkeel ui` prints `http://127.0.0.1:PORT/#k=KEY`. The page trades the key, which never leaves the
//! browser in an address, for a cookie; after that the key is worth nothing. Other programs on the
//! computer may connect, and get the page's files and nothing else.
//!
//! What is asked with the cookie must come from the page itself: the `Host` is the loopback, so that no
//! name of somebody else's leads here, and what changes anything has `Sec-Fetch-Site: same-origin` or
//! an `Origin` that is the `Host`.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use serde::Deserialize;

use crate::assets::POLICY;
use crate::serve::Problem;

/// Largest request, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Lets in whoever has followed the link.
#[derive(Clone, Debug)]
pub struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    port: u16,
    /// What the cookie holds.
    secret: String,
    /// The key of the link that has not been followed yet.
    key: Mutex<String>,
    followed: tokio::sync::Notify,
}

impl Door {
    /// The door of a page on this port.
    #[must_use]
    pub fn new(port: u16) -> Self {
        let inner = Inner {
            port,
            secret: secret(),
            key: Mutex::new(secret()),
            followed: tokio::sync::Notify::new(),
        };
        Self(Arc::new(inner))
    }

    /// The link that lets somebody in, once.
    #[must_use]
    pub fn link(&self) -> String {
        let key = self.0.key.lock().unwrap_or_else(PoisonError::into_inner);
        format!("http://127.0.0.1:{}/#k={key}", self.0.port)
    }

    /// Waits until somebody has followed the link, which is another one then.
    pub async fn followed(&self) {
        self.0.followed.notified().await;
    }

    /// The same routes behind this door.
    pub fn guard(self, inside: Router) -> Router {
        inside
            .layer(from_fn_with_state(self.clone(), check))
            .merge(Router::new().route("/session", post(enter)).with_state(self.clone()))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .layer(from_fn_with_state(self, check_host))
            .layer(from_fn(harden))
    }

    fn cookie(&self) -> String {
        // Cookies do not tell ports of a host apart.
        format!("evenkeel-{}", self.0.port)
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let cookies =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let name = self.cookie();
        cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .any(|(named, value)| {
                named == name && is_same(value.as_bytes(), self.0.secret.as_bytes())
            })
    }
}

/// 256 random bits as text.
fn secret() -> String {
    let mut rng: ChaCha12Rng = rand::make_rng();
    (0..4).map(|_| format!("{:016x}", rng.next_u64())).collect()
}

/// Compares without telling by the time taken how much is right.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

/// Trades the key of the link for a cookie.
async fn enter(
    State(door): State<Door>,
    headers: HeaderMap,
    Json(Key { key }): Json<Key>,
) -> Response {
    if !is_same_origin(&headers) {
        return foreign();
    }
    {
        let mut wanted = door.0.key.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_same(key.as_bytes(), wanted.as_bytes()) {
            let why = "this link has been used, or is of another start of `evenkeel ui`: take the \
                       newest link that it has printed";
            return Problem::new(StatusCode::UNAUTHORIZED, why).into_response();
        }
        *wanted = secret();
    }
    door.0.followed.notify_one();
    let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", door.cookie(), door.0.secret);
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

/// Lets pass what comes from somebody who was let in; the files of the page are anybody's.
async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    if !path.starts_with("/api/") && path != "/metrics" {
        return next.run(request).await;
    }
    if !door.knows(headers) {
        let why = "open this page by the link that `evenkeel ui` prints";
        return Problem::new(StatusCode::UNAUTHORIZED, why).into_response();
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !is_same_origin(headers) {
        return foreign();
    }
    next.run(request).await
}

fn foreign() -> Response {
    let why = "this was asked by another page than the one that is served here";
    Problem::new(StatusCode::FORBIDDEN, why).into_response()
}

/// Whether a browser says that a request comes from the page that it was served from.
#[must_use]
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    match text(HeaderName::from_static("sec-fetch-site")) {
        Some(site) => site == "same-origin",
        None => text(header::ORIGIN)
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(_, host)| text(header::HOST) == Some(host)),
    }
}

/// Turns away whoever has come by another name than the loopback's.
async fn check_host(State(door): State<Door>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let port = door.0.port;
    let own = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    if host.is_some_and(|host| own.iter().any(|name| name == host)) {
        return next.run(request).await;
    }
    let why = format!("ask for http://127.0.0.1:{port}/");
    Problem::new(StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Tells the browser what it must not do with any answer.
pub async fn harden(request: Request<Body>, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let told = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in told {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn guarded() -> (Door, Router) {
        let door = Door::new(4711);
        let inside = Router::new()
            .route("/api/v1/x", get(|| async { "secret" }).put(|| async { "done" }))
            .route("/", get(|| async { "page" }));
        (door.clone(), door.guard(inside))
    }

    async fn ask(router: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if path == "/session" { headers[0].1.to_owned() } else { String::new() };
        router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:4711");
    const OWN: (&str, &str) = ("sec-fetch-site", "same-origin");

    /// Follows a link and returns the answer.
    async fn follow(router: &Router, link: &str) -> Response {
        let key = format!("{{\"key\":\"{}\"}}", link.split_once("#k=").unwrap().1);
        let json = ("content-type", "application/json");
        ask(router, "POST", "/session", &[("x-body", &key), json, HOST, OWN]).await
    }

    #[tokio::test]
    async fn a_link_lets_in_once_and_the_cookie_from_then_on() {
        let (door, router) = guarded();
        let link = door.link();
        let entered = follow(&router, &link).await;
        assert_eq!(entered.status(), StatusCode::NO_CONTENT);
        let cookie = entered.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert_eq!(follow(&router, &link).await.status(), StatusCode::UNAUTHORIZED);
        assert_ne!(door.link(), link);
        let pair = cookie.split(';').next().unwrap();
        let ok = ask(&router, "GET", "/api/v1/x", &[("cookie", pair), HOST]).await;
        assert_eq!(ok.status(), StatusCode::OK);
        let done = ask(&router, "PUT", "/api/v1/x", &[("cookie", pair), HOST, OWN]).await;
        assert_eq!(done.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn strangers_get_the_files_of_the_page_and_nothing_else() {
        let (door, router) = guarded();
        assert_eq!(ask(&router, "GET", "/", &[HOST]).await.status(), StatusCode::OK);
        let name = door.cookie();
        for cookie in ["", "x=y", &format!("{name}="), &format!("{name}=0000")] {
            let answer = ask(&router, "GET", "/api/v1/x", &[HOST, ("cookie", cookie)]).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{cookie}");
        }
    }

    #[tokio::test]
    async fn what_another_page_asks_is_not_done_even_with_the_cookie() {
        let (door, router) = guarded();
        let pair = format!("{}={}", door.cookie(), door.0.secret);
        let cookie = ("cookie", pair.as_str());
        for foreign in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[],
        ] {
            let headers: Vec<_> =
                [HOST, cookie].into_iter().chain(foreign.iter().copied()).collect();
            let answer = ask(&router, "PUT", "/api/v1/x", &headers).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{foreign:?}");
        }
        let origin = ("origin", "http://127.0.0.1:4711");
        let own = ask(&router, "PUT", "/api/v1/x", &[HOST, cookie, origin]).await;
        assert_eq!(own.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn another_name_leads_nowhere_and_every_answer_says_what_a_browser_must_not_do() {
        let (_, router) = guarded();
        for host in ["evil.example:4711", "127.0.0.1", "127.0.0.1:80"] {
            let answer = ask(&router, "GET", "/", &[("host", host)]).await;
            assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{host}");
            assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        }
        assert!(!POLICY.contains("unsafe") && POLICY.starts_with("default-src 'none'"));
    }
}
