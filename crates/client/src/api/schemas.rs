//! Descriptions of values whose bounds are not part of their Rust type, for the OpenAPI document.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use keyward_core::types::{self, MAX_NAME_BYTES};

/// The name of a lock, an owner, an instance or a table.
pub struct Name;

/// The number of a request, which makes it safe to repeat.
pub struct RequestId;

/// The time for which a record is kept.
pub struct TimeToLive;

/// The records that a page shows.
pub struct RecordState;

impl PartialSchema for TimeToLive {
    fn schema() -> RefOr<Schema> {
        let length = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("Whole milliseconds"))
            .minimum(Some(1))
            .maximum(Some(9_007_199_254_740_991_i64));
        let never = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The record is never removed"))
            .enum_values(Some([types::TimeToLive::NEVER_WORD]));
        OneOfBuilder::new()
            .description(Some("How long a record is kept"))
            .item(length)
            .item(never)
            .into()
    }
}

impl ToSchema for TimeToLive {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("TimeToLive")
    }
}

impl PartialSchema for RecordState {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Records by whether their lock is held"))
            .enum_values(Some(["held", "expired"]))
            .into()
    }
}

impl ToSchema for RecordState {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("RecordState")
    }
}

/// The terms on which owners hold one lock together.
pub struct Mode;

/// The name of a session.
pub struct SessionName;

impl PartialSchema for Mode {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The terms on which owners hold one lock together"))
            .enum_values(Some(["exclusive", "shared", "permits"]))
            .into()
    }
}

impl ToSchema for Mode {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Mode")
    }
}

impl PartialSchema for SessionName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "32 hexadecimal digits, as the answer to `POST /v1/sessions` has them",
            ))
            .pattern(Some("^[0-9A-Fa-f]{32}$"))
            .examples(["0123456789abcdef0123456789abcdef"])
            .into()
    }
}

impl ToSchema for SessionName {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("SessionName")
    }
}

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("At most 1024 bytes of UTF-8, without NUL, compared as bytes"))
            .min_length(Some(1))
            .max_length(Some(MAX_NAME_BYTES))
            .pattern(Some("^[^\\u0000]*$"))
            .into()
    }
}

impl ToSchema for Name {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Name")
    }
}

impl PartialSchema for RequestId {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "32 hexadecimal digits, a hyphen and a decimal number; or a UUID, which is the \
                 first request of a lane of its own",
            ))
            .pattern(Some(
                "^([0-9A-Fa-f]{32}-[0-9]{1,19}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$",
            ))
            .examples(["0123456789abcdef0123456789abcdef-1"])
            .into()
    }
}

impl ToSchema for RequestId {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("RequestId")
    }
}
