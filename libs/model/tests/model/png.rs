//! Grey pictures for tests, also of other crates.

/// A PNG of `width` pixels across, row by row; a test's own encoder, so that the decoder is not asked
/// about what it wrote itself.
pub(crate) fn png(width: usize, pixels: &[u8]) -> Vec<u8> {
    let height = pixels.len() / width;
    let rows: Vec<u8> = pixels.chunks_exact(width).flat_map(|row| [&[0], row].concat()).collect();
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &rows).unwrap();
    let side = |side: usize| (side as u32).to_be_bytes();
    let header = [&side(width)[..], &side(height), &[8, 0, 0, 0, 0]].concat();
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in
        [(b"IHDR", header), (b"IDAT", packed.finish().unwrap()), (b"IEND", vec![])]
    {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(&content);
        bytes.extend((content.len() as u32).to_be_bytes());
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(&content);
        bytes.extend(crc.sum().to_be_bytes());
    }
    bytes
}
