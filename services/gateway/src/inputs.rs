//! Tensors of a request to inputs of the model.
use std::collections::BTreeMap;

use tidegate_contracts::{
    EventError, FeatureValue, Part,
    proto::v1::{self, part::Content},
};
use tidegate_model::Input;

use crate::error::Refused;

/// A tensor that a request may have. All are BYTES of shape `[n]` or `[n, 1]`; row by row they are
/// the parts of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// UTF-8.
    Text,
    /// PNG or JPEG.
    Image,
    /// WAV.
    Audio,
    /// A JSON object of numbers and strings.
    Features,
}

impl Column {
    pub(crate) const ALL: [Self; 4] = [Self::Text, Self::Image, Self::Audio, Self::Features];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Features => "features",
        }
    }

    fn part(self, row: usize, bytes: Vec<u8>) -> Result<Part, Refused> {
        let wrong = |what: String| invalid(format!("{}[{row}] {what}", self.name()));
        let content = match self {
            Self::Text => {
                let text = String::from_utf8(bytes).map_err(|error| {
                    let at = error.utf8_error().valid_up_to();
                    wrong(format!("is not UTF-8 (first wrong byte at {at})"))
                })?;
                if text.trim().is_empty() {
                    return Err(wrong("is blank: there is nothing to classify".to_owned()));
                }
                return Ok(Part::Text(text));
            }
            Self::Features => return features(&bytes).map(Part::Features).map_err(wrong),
            Self::Image => Content::Image(bytes),
            Self::Audio => Content::Audio(bytes),
        };
        Part::try_from(v1::Part { content: Some(content) }).map_err(|error| match error {
            EventError::Field { reason, .. } => wrong(reason),
            other => wrong(other.to_string()),
        })
    }
}

fn features(bytes: &[u8]) -> Result<BTreeMap<String, FeatureValue>, String> {
    let needed = "a JSON object of numbers and strings is needed";
    let values: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|error| format!("is {error}: {needed}"))?;
    if values.is_empty() {
        return Err(format!("is empty: {needed}"));
    }
    let value = |(name, value): (String, serde_json::Value)| {
        let value = match value {
            serde_json::Value::Number(number) => number.as_f64().map(FeatureValue::Number),
            serde_json::Value::String(category) => Some(FeatureValue::Category(category)),
            _ => None,
        };
        match value {
            Some(value) => Ok((name, value)),
            None => Err(format!("has a `{name}` that is neither a number nor a string: {needed}")),
        }
    };
    values.into_iter().map(value).collect()
}

fn invalid(reason: impl Into<String>) -> Refused {
    Refused::Invalid(reason.into())
}

/// What a request's input says of itself.
pub(crate) struct Declared<'a> {
    pub(crate) name: &'a str,
    pub(crate) datatype: &'a str,
    pub(crate) shape: &'a [i64],
}

/// The columns in order, and how many rows they all have.
pub(crate) fn check_inputs<'a>(
    inputs: impl IntoIterator<Item = Declared<'a>>,
) -> Result<(Vec<Column>, usize), Refused> {
    let (mut columns, mut rows) = (Vec::new(), None);
    for input in inputs {
        let name = input.name;
        let Some(column) = Column::ALL.into_iter().find(|column| column.name() == name) else {
            let known = Column::ALL.map(|column| format!("`{}`", column.name())).join(", ");
            return Err(invalid(format!("input `{name}` is unknown: there are {known}")));
        };
        if columns.contains(&column) {
            return Err(invalid(format!("input `{name}` is given 2 times")));
        }
        if input.datatype != "BYTES" {
            let found = input.datatype;
            return Err(invalid(format!("input `{name}` has datatype `{found}`: BYTES is needed")));
        }
        let count = match *input.shape {
            [n] | [n, 1] if n >= 1 => usize::try_from(n).map_err(|_| {
                invalid(format!("input `{name}` has shape [{n}]: that is too many"))
            })?,
            ref shape => {
                return Err(invalid(format!(
                    "input `{name}` has shape {shape:?}: [n] or [n, 1] with n of at least 1 is \
                     needed"
                )));
            }
        };
        if *rows.get_or_insert(count) != count {
            let (first, others) = (columns[0], rows.unwrap_or_default());
            let first = Column::name(first);
            return Err(invalid(format!(
                "input `{name}` has {count} rows and `{first}` {others}: a row of each is one input"
            )));
        }
        columns.push(column);
    }
    match rows {
        Some(rows) => Ok((columns, rows)),
        None => Err(invalid("input `text` is missing: send BYTES of shape [n]")),
    }
}

/// One input a row. Beside other columns an empty cell is a part that is not there.
pub(crate) fn rows(columns: Vec<(Column, Vec<Vec<u8>>)>) -> Result<Vec<Input>, Refused> {
    let alone = columns.len() == 1;
    let count = columns.first().map_or(0, |(_, cells)| cells.len());
    let mut inputs = vec![Input::default(); count];
    for (column, cells) in columns {
        for (row, (input, bytes)) in inputs.iter_mut().zip(cells).enumerate() {
            if alone || !bytes.is_empty() {
                input.parts.push(column.part(row, bytes)?);
            }
        }
    }
    match inputs.iter().position(|input| input.parts.is_empty()) {
        Some(row) => Err(invalid(format!("row {row} is empty in every input"))),
        None => Ok(inputs),
    }
}
