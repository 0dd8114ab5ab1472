//! The curator: events and labels in, curated records out, rejects to the dead-letter topic.
