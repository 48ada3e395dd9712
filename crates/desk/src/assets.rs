//! The page, as it is committed in `dist/`: `scripts/desk check` proves that a build of `web/` gives
//! the same bytes.

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const ASSETS: [Asset; 3] = [
    Asset {
        path: "/",
        kind: "text/html; charset=utf-8",
        bytes: include_bytes!("../dist/index.html"),
    },
    Asset {
        path: "/app.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../dist/app.js"),
    },
    Asset {
        path: "/app.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../dist/app.css"),
    },
];

/// What a browser may do with anything that is served here: run the scripts of this server, and
/// nothing of anybody else's.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' \
                          data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
                          form-action 'none'";

/// The routes of the page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        router
            .route(asset.path, get(move |headers: HeaderMap| async move { asset.answer(&headers) }))
    })
}

impl Asset {
    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = format!("\"{:016x}\"", checksum(self.bytes));
        let known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == tag.as_str());
        let told = [
            (header::CONTENT_TYPE, self.kind.to_owned()),
            (header::ETAG, tag),
            // It changes with the program, so a browser asks each time.
            (header::CACHE_CONTROL, "no-cache".to_owned()),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, told).into_response();
        }
        (told, self.bytes).into_response()
    }
}

/// FNV-1a: tells versions of a file apart, and protects nothing.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_no_file_that_is_not_served_and_no_other_origin() {
        let html = String::from_utf8_lossy(ASSETS[0].bytes);
        for named in html.split("src=\"").skip(1).chain(html.split("href=\"").skip(1)) {
            let name = named.split('"').next().unwrap_or_default();
            let name = name.strip_prefix("./").unwrap_or(name);
            assert!(
                name.starts_with("data:") || ASSETS.iter().any(|a| a.path == format!("/{name}")),
                "{name}"
            );
        }
        assert!(!html.contains("http:") && !html.contains("https:"), "{html}");
    }
}
