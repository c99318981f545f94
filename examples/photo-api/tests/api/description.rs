//! Holds replies against `/openapi.json`.

use std::sync::LazyLock;

use axum::http::Method;
use photo_api::DOCUMENT;
use serde_json::Value;

use crate::client::Reply;

pub(crate) static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(DOCUMENT).unwrap());

/// Panics unless the reply is one that the description has for this request.
#[track_caller]
pub(crate) fn check(method: &Method, path: &str, reply: &Reply) {
    let paths = DESCRIPTION["paths"].as_object().unwrap();
    let (template, operations) = paths
        .iter()
        .filter(|(template, _)| matches(template, path))
        .min_by_key(|(template, _)| template.matches('{').count())
        .unwrap_or_else(|| panic!("{path} is not described"));
    let operation = &operations[method.as_str().to_lowercase()];
    assert!(operation.is_object(), "{method} {template} is not described");

    let status = reply.status.as_u16().to_string();
    let class = format!("{}XX", &status[..1]);
    let responses = &operation["responses"];
    let response = resolve(responses.get(&status).or(responses.get(&class)).unwrap_or_else(|| {
        panic!("{method} {template} is not described to answer {status}: {}", reply.text())
    }));
    let Some(content) = response["content"].as_object() else {
        assert!(reply.body.is_empty(), "{method} {template} {status} is described as empty");
        return;
    };
    let content_type = reply.header("content-type").split(';').next().unwrap();
    let described = content.get(content_type).unwrap_or_else(|| {
        panic!("{method} {template} {status} is not described as {content_type:?}")
    });
    if content_type.ends_with("json") && described["schema"].is_object() {
        fits(&reply.json(), &described["schema"], &format!("{method} {template} {status}"));
    }
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template.zip(path).all(|(part, given)| part == given || part.starts_with('{'))
}

fn resolve(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let found = DESCRIPTION.pointer(reference.trim_start_matches('#'));
            found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

/// As much of JSON Schema as the description uses.
#[track_caller]
fn fits(value: &Value, schema: &Value, at: &str) {
    let schema = resolve(schema);
    let is = |wanted: &Value| match wanted.as_str().unwrap() {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: unknown type {other}"),
    };
    let typed = match &schema["type"] {
        Value::Array(types) => types.iter().any(is),
        one => is(one),
    };
    assert!(typed, "{at}: {value} is no {}", schema["type"]);
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value} is none of {allowed:?}");
    }
    if let Some(items) = value.as_array() {
        let length = items.len() as u64;
        assert!(schema["minItems"].as_u64().is_none_or(|least| length >= least), "{at}: too few");
        assert!(schema["maxItems"].as_u64().is_none_or(|most| length <= most), "{at}: too many");
        for item in items {
            fits(item, &schema["items"], &format!("{at}[]"));
        }
    }
    if let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object())
    {
        for required in schema["required"].as_array().into_iter().flatten() {
            let required = required.as_str().unwrap();
            assert!(object.contains_key(required), "{at}: {required} is missing");
        }
        for (key, value) in object {
            match properties.get(key) {
                Some(schema) => fits(value, schema, &format!("{at}.{key}")),
                None => assert!(schema["additionalProperties"] != false, "{at}: {key} is new"),
            }
        }
    }
}
