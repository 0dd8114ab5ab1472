//! Tensors of the Open Inference Protocol to inputs, and scores to tensors.
use std::borrow::Cow;

use tidegate_contracts::proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor,
};
use tidegate_model::Input;

use crate::{
    error::Refused,
    front::Answer,
    inputs::{Declared, check_inputs, rows},
    slot::Served,
};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// The likeliest class; a number in decimal notation where numbers are answered.
    Label,
    /// Where numbers are answered.
    Value,
    /// Lower and upper end about the value.
    Interval,
    Probabilities,
    Generation,
    /// Of the input's final hidden states; given to who names it.
    Embedding,
}

impl Output {
    const ALL: [Self; 6] = [
        Self::Label,
        Self::Probabilities,
        Self::Generation,
        Self::Value,
        Self::Interval,
        Self::Embedding,
    ];

    /// Those that a model has.
    pub(crate) fn all(served: &Served) -> impl Iterator<Item = Self> + use<> {
        let numbers = served.batcher.levels().is_some();
        Self::ALL.into_iter().filter(move |output| numbers || !output.is_of_numbers())
    }

    const fn is_of_numbers(self) -> bool {
        matches!(self, Self::Value | Self::Interval)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Value => "value",
            Self::Interval => "interval",
            Self::Probabilities => "probabilities",
            Self::Generation => "generation",
            Self::Embedding => "embedding",
        }
    }

    pub(crate) const fn datatype(self) -> &'static str {
        match self {
            Self::Probabilities | Self::Embedding => "FP32",
            Self::Value | Self::Interval => "FP64",
            Self::Label | Self::Generation => "BYTES",
        }
    }

    /// The shape for `texts` inputs; -1 where it is open. `width`: of an embedding.
    pub(crate) fn shape(self, texts: i64, classes: usize, width: usize) -> Vec<i64> {
        let size = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        match self {
            Self::Label | Self::Value => vec![texts],
            Self::Interval => vec![texts, 2],
            Self::Probabilities => vec![texts, size(classes)],
            Self::Generation => vec![1],
            Self::Embedding => vec![texts, size(width)],
        }
    }

    /// Those that are named, of this model; where none is, all but embeddings.
    pub(crate) fn of(served: &Served, named: Vec<Self>) -> Result<Vec<Self>, Refused> {
        if named.is_empty() {
            return Ok(Self::all(served).filter(|output| *output != Self::Embedding).collect());
        }
        match named.iter().find(|&&output| Self::all(served).all(|other| other != output)) {
            Some(output) => Err(invalid(format!(
                "output `{}` is of models that answer with numbers: this one answers with classes",
                output.name()
            ))),
            None => Ok(named),
        }
    }

    /// Those that are named.
    pub(crate) fn requested<'a>(
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Self>, Refused> {
        let find = |name: &'a str| {
            Self::ALL.into_iter().find(|output| output.name() == name).ok_or_else(|| {
                invalid(format!(
                    "output `{name}` is unknown: there are label, probabilities, generation, \
                     embedding, and value and interval of models that answer with numbers"
                ))
            })
        };
        names.map(find).collect()
    }
}

fn invalid(reason: impl Into<String>) -> Refused {
    Refused::Invalid(reason.into())
}

/// What an OIP request asks.
pub(crate) struct Asking {
    pub(crate) inputs: Vec<Input>,
    /// By name; nothing: the usual.
    pub(crate) outputs: Vec<Output>,
    /// Who asks in raw tensors is answered in raw tensors.
    pub(crate) raw: bool,
}

impl Asking {
    /// Takes the tensors out of a request.
    pub(crate) fn read(request: &mut ModelInferRequest) -> Result<Self, Refused> {
        let declared = request.inputs.iter().map(|input| Declared {
            name: &input.name,
            datatype: &input.datatype,
            shape: &input.shape,
        });
        let (columns, count) = check_inputs(declared)?;
        let outputs = Output::requested(request.outputs.iter().map(|o| o.name.as_str()))?;
        let raw = std::mem::take(&mut request.raw_input_contents);
        if !raw.is_empty() && raw.len() != columns.len() {
            let (found, inputs) = (raw.len(), columns.len());
            let inputs =
                if inputs == 1 { "1 input".to_owned() } else { format!("{inputs} inputs") };
            return Err(invalid(format!("raw_input_contents has {found} entries for {inputs}")));
        }
        let mut read = Vec::with_capacity(columns.len());
        for (at, (column, input)) in columns.into_iter().zip(&mut request.inputs).enumerate() {
            let name = column.name();
            let cells = match (input.contents.take(), raw.get(at)) {
                (None, None) => return Err(invalid(format!("input `{name}` has no contents"))),
                (Some(typed), None) => only_bytes(name, typed)?,
                (typed, Some(raw)) if typed.as_ref().is_none_or(is_empty) => {
                    split_raw((at, name), raw)?
                }
                (_, Some(_)) => {
                    return Err(invalid(format!(
                        "input `{name}` is in both contents and raw_input_contents"
                    )));
                }
            };
            if cells.len() != count {
                let (found, shape) = (cells.len(), &input.shape);
                return Err(invalid(format!(
                    "input `{name}` holds {found} strings: its shape {shape:?} says {count}"
                )));
            }
            read.push((column, cells));
        }
        let inputs = rows(read)?;
        Ok(Self { inputs, outputs, raw: !raw.is_empty() })
    }
}

fn is_empty(contents: &InferTensorContents) -> bool {
    *contents == InferTensorContents::default()
}

fn only_bytes(name: &str, mut contents: InferTensorContents) -> Result<Vec<Vec<u8>>, Refused> {
    let strings = std::mem::take(&mut contents.bytes_contents);
    if is_empty(&contents) {
        return Ok(strings);
    }
    let reason = "has contents of another type: BYTES are in bytes_contents";
    Err(invalid(format!("input `{name}` {reason}")))
}

/// Strings, each after its length in 4 bytes, little-endian.
fn split_raw((at, name): (usize, &str), raw: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let mut strings = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let (byte, index) = (raw.len() - rest.len(), strings.len());
        let wrong = |what: String| {
            invalid(format!("raw_input_contents[{at}]: at byte {byte}, {name}[{index}]: {what}"))
        };
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Err(wrong(format!("a length of 4 bytes is needed, {} are left", rest.len())));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((string, after)) = after.split_at_checked(length) else {
            return Err(wrong(format!("{length} bytes are announced, {} are left", after.len())));
        };
        strings.push(string.to_vec());
        rest = after;
    }
    Ok(strings)
}

fn join_raw(strings: impl Iterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut raw = Vec::new();
    for string in strings {
        let string = string.as_ref();
        let length = u32::try_from(string.len()).expect("labels and ids are short");
        raw.extend(length.to_le_bytes());
        raw.extend(string.as_bytes());
    }
    raw
}

impl Answer {
    /// What is said of each text.
    pub(crate) fn labels(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.scores.iter().map(|scores| self.served.label(scores))
    }

    /// One a text; none where classes are answered.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> {
        self.scores.iter().filter_map(|scores| self.served.value(scores))
    }

    /// Two a text; none where classes are answered.
    pub(crate) fn intervals(&self) -> impl Iterator<Item = f64> {
        let ends = self.scores.iter().filter_map(|scores| self.served.interval(scores));
        ends.flat_map(|(low, high)| [low, high])
    }

    /// Row by row.
    pub(crate) fn probabilities(&self) -> impl Iterator<Item = f32> {
        self.scores.iter().flat_map(|scores| scores.probabilities.iter().copied())
    }

    /// Row by row; empty where nobody asked for it.
    pub(crate) fn embeddings(&self) -> impl Iterator<Item = f32> {
        self.embeddings.iter().flatten().copied()
    }

    pub(crate) fn shape(&self, output: Output) -> Vec<i64> {
        let texts = i64::try_from(self.scores.len()).expect("the queue bounds a request");
        output.shape(texts, self.served.labels().len(), self.served.batcher.width())
    }

    /// The OIP response.
    pub(crate) fn respond(&self, model_name: String, id: String, raw: bool) -> ModelInferResponse {
        let mut raw_output_contents = Vec::new();
        let tensor = |&output: &Output| InferOutputTensor {
            name: output.name().to_owned(),
            datatype: output.datatype().to_owned(),
            shape: self.shape(output),
            contents: if raw {
                raw_output_contents.push(self.raw(output));
                None
            } else {
                Some(self.typed(output))
            },
            ..InferOutputTensor::default()
        };
        let outputs = self.outputs.iter().map(tensor).collect();
        let generation = ParameterChoice::StringParam(self.served.name.clone());
        let generation = InferParameter { parameter_choice: Some(generation) };
        ModelInferResponse {
            model_name,
            model_version: self.served.name.clone(),
            id,
            parameters: [("generation".to_owned(), generation)].into(),
            outputs,
            raw_output_contents,
        }
    }

    fn typed(&self, output: Output) -> InferTensorContents {
        let mut contents = InferTensorContents::default();
        match output {
            Output::Label => {
                let labels = self.labels().map(|label| label.into_owned().into_bytes());
                contents.bytes_contents = labels.collect();
            }
            Output::Value => contents.fp64_contents = self.values().collect(),
            Output::Interval => contents.fp64_contents = self.intervals().collect(),
            Output::Probabilities => contents.fp32_contents = self.probabilities().collect(),
            Output::Embedding => contents.fp32_contents = self.embeddings().collect(),
            Output::Generation => {
                contents.bytes_contents = vec![self.served.name.clone().into_bytes()];
            }
        }
        contents
    }

    fn raw(&self, output: Output) -> Vec<u8> {
        match output {
            Output::Label => join_raw(self.labels()),
            Output::Value => self.values().flat_map(f64::to_le_bytes).collect(),
            Output::Interval => self.intervals().flat_map(f64::to_le_bytes).collect(),
            Output::Probabilities => self.probabilities().flat_map(f32::to_le_bytes).collect(),
            Output::Embedding => self.embeddings().flat_map(f32::to_le_bytes).collect(),
            Output::Generation => join_raw(std::iter::once(&self.served.name)),
        }
    }
}

#[cfg(test)]
mod tests;
