//! The claims of a checked JWT: identity, groups and times.

use serde_json::{Map, Value};

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// The place of a claim: its name, or a pointer (RFC 6901) such as `/kubernetes.io/namespace` to a
/// claim within another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place(pub(super) String);

impl Place {
    /// The claim.
    pub(super) fn of<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        let Some(pointer) = self.0.strip_prefix('/') else { return claims.get(&self.0) };
        let (first, rest) = match pointer.split_once('/') {
            Some((first, rest)) => (first, format!("/{rest}")),
            None => (pointer, String::new()),
        };
        let first = first.replace("~1", "/").replace("~0", "~");
        claims.get(&first)?.pointer(&rest)
    }

    /// The claim, which must be a text.
    pub(super) fn text<'a>(&self, claims: &'a Claims) -> Result<&'a str, String> {
        match self.of(claims) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(format!("its claim `{}` is no text, or an empty one", self.0)),
            None => Err(format!("it has no claim `{}`, which names the identity", self.0)),
        }
    }

    /// The claim, which may be a text or a list of texts; empty if there is none.
    pub(super) fn texts<'a>(&self, claims: &'a Claims) -> Result<Vec<&'a str>, String> {
        let wrong = || format!("its claim `{}` is neither a text nor a list of texts", self.0);
        match self.of(claims) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(all)) => {
                all.iter().map(|one| one.as_str().ok_or_else(wrong)).collect()
            }
            Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(wrong()),
        }
    }
}

/// A time, in seconds since 1970 (`NumericDate`, RFC 7519). A fraction is cut off.
pub(super) fn time(claims: &Claims, name: &str) -> Result<Option<u64>, String> {
    let wrong = || format!("its claim `{name}` is no time in seconds since 1970");
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it was found to be positive, and one beyond the last is the last"
            )]
            (None, Some(seconds)) if seconds >= 0.0 => Ok(Some(seconds as u64)),
            (None, _) => Err(wrong()),
        },
        Some(_) => Err(wrong()),
    }
}
