//! Tensors of the Open Inference Protocol to texts, and scores to tensors.
use tidegate_contracts::proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor,
};
use tidegate_model::Input;

use crate::{error::Refused, front::Answer};

/// The one input.
pub(crate) const TEXT: &str = "text";

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Label,
    Probabilities,
    Generation,
}

impl Output {
    pub(crate) const ALL: [Self; 3] = [Self::Label, Self::Probabilities, Self::Generation];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Probabilities => "probabilities",
            Self::Generation => "generation",
        }
    }

    pub(crate) const fn datatype(self) -> &'static str {
        match self {
            Self::Probabilities => "FP32",
            Self::Label | Self::Generation => "BYTES",
        }
    }

    /// The shape for `texts` inputs; -1 where it is open.
    pub(crate) fn shape(self, texts: i64, classes: usize) -> Vec<i64> {
        match self {
            Self::Label => vec![texts],
            Self::Probabilities => vec![texts, i64::try_from(classes).unwrap_or(i64::MAX)],
            Self::Generation => vec![1],
        }
    }

    /// Those that are named, all when none is.
    pub(crate) fn requested<'a>(
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Self>, Refused> {
        let find = |name: &'a str| {
            Self::ALL.into_iter().find(|output| output.name() == name).ok_or_else(|| {
                invalid(format!(
                    "output `{name}` is unknown: this model has label, probabilities, generation"
                ))
            })
        };
        let found = names.map(find).collect::<Result<Vec<_>, _>>()?;
        Ok(if found.is_empty() { Self::ALL.to_vec() } else { found })
    }
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

/// The number of texts, when exactly the one input `text` of type BYTES is there, of shape `[n]`
/// or `[n, 1]`.
pub(crate) fn check_inputs<'a>(
    mut inputs: impl ExactSizeIterator<Item = Declared<'a>>,
) -> Result<usize, Refused> {
    let count = inputs.len();
    let Some(input) = inputs.next() else {
        return Err(invalid("input `text` is missing: send BYTES of shape [n]"));
    };
    let others = inputs.map(|other| other.name).find(|name| *name != TEXT);
    if let Some(name) = std::iter::once(input.name).find(|name| *name != TEXT).or(others) {
        return Err(invalid(format!("input `{name}` is unknown: this model has only `text`")));
    }
    if count > 1 {
        return Err(invalid(format!("input `text` is given {count} times")));
    }
    if input.datatype != "BYTES" {
        let found = input.datatype;
        return Err(invalid(format!("input `text` has datatype `{found}`: BYTES is needed")));
    }
    match *input.shape {
        [n] | [n, 1] if n >= 1 => usize::try_from(n)
            .map_err(|_| invalid(format!("input `text` has shape [{n}]: that is too many"))),
        ref shape => Err(invalid(format!(
            "input `text` has shape {shape:?}: [n] or [n, 1] with n of at least 1 is needed"
        ))),
    }
}

/// A text that can be asked about.
pub(crate) fn check_text(index: usize, bytes: Vec<u8>) -> Result<Input, Refused> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        invalid(format!("text[{index}] is not UTF-8 (first wrong byte at {at})"))
    })?;
    if text.trim().is_empty() {
        return Err(invalid(format!("text[{index}] is blank: there is nothing to classify")));
    }
    Ok(Input { text })
}

/// What an OIP request asks.
pub(crate) struct Asking {
    pub(crate) inputs: Vec<Input>,
    pub(crate) layout: Layout,
}

/// How an answer is laid out.
pub(crate) struct Layout {
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
        let texts = check_inputs(declared)?;
        let outputs = Output::requested(request.outputs.iter().map(|o| o.name.as_str()))?;
        let typed = request.inputs[0].contents.take();
        let raw = std::mem::take(&mut request.raw_input_contents);
        let strings = match (typed, raw.as_slice()) {
            (None, []) => return Err(invalid("input `text` has no contents")),
            (Some(typed), []) => only_bytes(typed)?,
            (typed, [raw]) if typed.as_ref().is_none_or(is_empty) => split_raw(raw)?,
            (_, [_]) => {
                return Err(invalid("input `text` is in both contents and raw_input_contents"));
            }
            (_, many) => {
                let found = many.len();
                return Err(invalid(format!("raw_input_contents has {found} entries for 1 input")));
            }
        };
        if strings.len() != texts {
            let (found, shape) = (strings.len(), &request.inputs[0].shape);
            return Err(invalid(format!(
                "input `text` holds {found} strings: its shape {shape:?} says {texts}"
            )));
        }
        let check = |(index, bytes)| check_text(index, bytes);
        let inputs = strings.into_iter().enumerate().map(check).collect::<Result<_, _>>()?;
        Ok(Self { inputs, layout: Layout { outputs, raw: !raw.is_empty() } })
    }
}

fn is_empty(contents: &InferTensorContents) -> bool {
    *contents == InferTensorContents::default()
}

fn only_bytes(mut contents: InferTensorContents) -> Result<Vec<Vec<u8>>, Refused> {
    let strings = std::mem::take(&mut contents.bytes_contents);
    if is_empty(&contents) {
        return Ok(strings);
    }
    Err(invalid("input `text` has contents of another type: BYTES are in bytes_contents"))
}

/// Strings, each after its length in 4 bytes, little-endian.
fn split_raw(raw: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let mut strings = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let (at, index) = (raw.len() - rest.len(), strings.len());
        let wrong = |what: String| {
            invalid(format!("raw_input_contents[0]: at byte {at}, text[{index}]: {what}"))
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

fn join_raw<'a>(strings: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut raw = Vec::new();
    for string in strings {
        let length = u32::try_from(string.len()).expect("labels and ids are short");
        raw.extend(length.to_le_bytes());
        raw.extend(string.as_bytes());
    }
    raw
}

impl Answer {
    /// The likeliest class of each text.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &str> {
        self.scores.iter().map(|scores| self.served.labels()[scores.best().0].as_str())
    }

    /// Row by row.
    pub(crate) fn probabilities(&self) -> impl Iterator<Item = f32> {
        self.scores.iter().flat_map(|scores| scores.probabilities.iter().copied())
    }

    pub(crate) fn shape(&self, output: Output) -> Vec<i64> {
        let texts = i64::try_from(self.scores.len()).expect("the queue bounds a request");
        output.shape(texts, self.served.labels().len())
    }

    /// The OIP response.
    pub(crate) fn respond(
        &self,
        model_name: String,
        id: String,
        layout: &Layout,
    ) -> ModelInferResponse {
        let mut raw_output_contents = Vec::new();
        let tensor = |&output: &Output| InferOutputTensor {
            name: output.name().to_owned(),
            datatype: output.datatype().to_owned(),
            shape: self.shape(output),
            contents: if layout.raw {
                raw_output_contents.push(self.raw(output));
                None
            } else {
                Some(self.typed(output))
            },
            ..InferOutputTensor::default()
        };
        let outputs = layout.outputs.iter().map(tensor).collect();
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
                contents.bytes_contents = self.labels().map(|l| l.as_bytes().to_vec()).collect();
            }
            Output::Probabilities => contents.fp32_contents = self.probabilities().collect(),
            Output::Generation => {
                contents.bytes_contents = vec![self.served.name.clone().into_bytes()];
            }
        }
        contents
    }

    fn raw(&self, output: Output) -> Vec<u8> {
        match output {
            Output::Label => join_raw(self.labels()),
            Output::Probabilities => self.probabilities().flat_map(f32::to_le_bytes).collect(),
            Output::Generation => join_raw(std::iter::once(self.served.name.as_str())),
        }
    }
}

#[cfg(test)]
mod tests;
