//! Decode and validate: bytes become an event or a label, or the reason why not.
use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{ContentType, Event, EventError, LateLabel, Part, proto};
use tidegate_model::check_part;

use crate::{
    config::{LabelKind, StageName, ValidateConfig},
    record::{Body, Outcome, Raw, Record, Rejection, Side, Stage},
};

/// The first stage.
pub(crate) struct Validate {
    max_future: TimeDelta,
    labels: LabelKind,
}

impl Validate {
    pub(crate) fn new(config: &ValidateConfig) -> Self {
        let seconds = i64::try_from(config.max_future_s).unwrap_or(i64::MAX);
        let max_future = TimeDelta::try_seconds(seconds).unwrap_or(TimeDelta::MAX);
        Self { max_future, labels: config.labels }
    }

    /// What is wrong with a label, if anything is.
    fn no_number(&self, body: &Body) -> Option<String> {
        let label = match body {
            Body::Event(event) => event.label.as_ref()?,
            Body::Label(label) => &label.label,
            Body::Undecoded(_) => return None,
        };
        let wrong = self.labels == LabelKind::Numbers && label.number().is_none();
        wrong.then(|| {
            format!(
                "label `{label}` is not a number from -1e30 to 1e30: labels here are, as in \"12.5\""
            )
        })
    }

    fn is_future(&self, time: DateTime<Utc>, record_time: DateTime<Utc>) -> bool {
        time.signed_duration_since(record_time) > self.max_future
    }
}

/// Reads a raw record. The flag says whether headers filled in what the value lacked.
pub(crate) fn decode(raw: &Raw, side: Side) -> Result<(Body, bool), EventError> {
    let form = ContentType::from_header(raw.header("content-type").unwrap_or_default())?;
    match side {
        Side::Labels => {
            LateLabel::decode(form, &raw.value, raw.time).map(|label| (Body::Label(label), false))
        }
        Side::Events if !is_cloud_event(raw) => {
            Event::decode(form, &raw.value, raw.time).map(|event| (Body::Event(event), false))
        }
        Side::Events => {
            let mut wire = Event::decode_wire(form, &raw.value)?;
            let amended = fill_from_cloud_event(&mut wire, raw)?;
            Event::from_proto(wire, raw.time).map(|event| (Body::Event(event), amended))
        }
    }
}

/// Pictures and sounds of one event: each may take a tenth of a second to look at.
const MOST_DECODED: usize = 16;

/// Whether every part can be decoded: what no model could read would otherwise be found by each job
/// anew.
fn parts(event: &Event) -> Result<(), String> {
    let is_decoded = |part: &&Part| matches!(part, Part::Image(_) | Part::Audio(_));
    let count = event.parts.iter().filter(is_decoded).count();
    if count > MOST_DECODED {
        return Err(format!(
            "it has {count} pictures and sounds: at most {MOST_DECODED} are decoded"
        ));
    }
    let check = |(index, part)| check_part(index, part).map_err(|error| error.to_string());
    event.parts.iter().enumerate().try_for_each(check)
}

fn is_cloud_event(raw: &Raw) -> bool {
    raw.headers.iter().any(|(name, _)| name.starts_with("ce_"))
}

/// CloudEvents 1.0, Kafka protocol binding, binary mode: the attributes are headers. They fill in
/// what the value does not say; they never contradict it.
fn fill_from_cloud_event(wire: &mut proto::v1::Event, raw: &Raw) -> Result<bool, EventError> {
    let text = |name: &str| -> Result<Option<String>, EventError> {
        let Some(value) = raw.header(name) else { return Ok(None) };
        match std::str::from_utf8(value) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(EventError::Field { field: name.into(), reason: "is not UTF-8".into() }),
        }
    };
    let mut amended = false;
    if wire.id.is_empty()
        && let Some(id) = text("ce_id")?
    {
        wire.id = id;
        amended = true;
    }
    if wire.domain.is_empty()
        && let Some(source) = text("ce_source")?
    {
        wire.domain = source;
        amended = true;
    }
    if wire.time.is_none()
        && let Some(time) = text("ce_time")?
    {
        let time = DateTime::parse_from_rfc3339(&time).map_err(|error| EventError::Field {
            field: "ce_time".into(),
            reason: format!("`{time}` is not an RFC 3339 time: {error}"),
        })?;
        wire.time = Some(proto::timestamp(time.to_utc()));
        amended = true;
    }
    Ok(amended)
}

impl Stage for Validate {
    fn name(&self) -> StageName {
        StageName::Validate
    }

    fn takes_labels(&self) -> bool {
        true
    }

    fn apply(&mut self, mut record: Record) -> Outcome {
        let Body::Undecoded(side) = record.body else { return Outcome::Keep(record) };
        let (body, amended) = match decode(&record.raw, side) {
            Ok(decoded) => decoded,
            Err(error) => {
                let rejection = Rejection { code: error.code(), reason: error.to_string() };
                return Outcome::Reject(record, rejection);
            }
        };
        let time = match &body {
            Body::Event(event) => event.time,
            Body::Label(label) => label.time,
            Body::Undecoded(_) => record.raw.time,
        };
        record.body = body;
        if let Body::Event(event) = &record.body
            && let Err(reason) = parts(event)
        {
            return Outcome::Reject(record, Rejection { code: "undecodable_part", reason });
        }
        if let Some(reason) = self.no_number(&record.body) {
            return Outcome::Reject(record, Rejection { code: "label_no_number", reason });
        }
        if self.is_future(time, record.raw.time) {
            let reason = format!(
                "its time {time} lies more than {} s after its record's, {} (is the producer's \
                 clock right?)",
                self.max_future.num_seconds(),
                record.raw.time
            );
            return Outcome::Reject(record, Rejection { code: "future_time", reason });
        }
        if amended { Outcome::Amend(record) } else { Outcome::Keep(record) }
    }
}
