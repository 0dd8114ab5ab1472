//! Numbers as files hold them: f32, little-endian. Whole tensors at a time, as fast as memory is.

/// The bytes of `values`.
#[must_use]
pub fn to_le_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    for (word, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *word = value.to_le_bytes();
    }
    bytes
}

/// The numbers whose bytes these are; what is left of a last one is not looked at.
#[must_use]
pub fn from_le_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// Where the first number stands that is infinite or NaN.
#[must_use]
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    // Without an early end within a block, so that it is vectorised.
    let finite = |block: &[f32]| block.iter().fold(true, |all, value| all & value.is_finite());
    let block = values.chunks(1024).position(|block| !finite(block))?;
    let start = block * 1024;
    values[start..].iter().position(|value| !value.is_finite()).map(|at| start + at)
}

/// Appends columns of 0: `values` of the shape `from`, in the shape `to`, whose last dimension is as
/// large or larger (a class more has a column more). Nothing where another dimension differs.
#[must_use]
pub fn widened(values: &[f32], from: &[usize], to: &[usize]) -> Option<Vec<f32>> {
    let ((columns, rows), (more, same)) = (from.split_last()?, to.split_last()?);
    if rows != same || columns > more || *columns == 0 {
        return None;
    }
    let mut wide = vec![0.0; values.len() / columns * more];
    for (wide, row) in wide.chunks_exact_mut(*more).zip(values.chunks_exact(*columns)) {
        wide[..*columns].copy_from_slice(row);
    }
    Some(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_columns_are_zero_and_other_shapes_are_left_out() {
        let values = [1.0, 2.0, 3.0, 4.0];
        let wide = widened(&values, &[2, 2], &[2, 3]).unwrap();
        assert_eq!(wide, [1.0, 2.0, 0.0, 3.0, 4.0, 0.0]);
        assert_eq!(widened(&values, &[4], &[5]).unwrap(), [1.0, 2.0, 3.0, 4.0, 0.0]);
        assert_eq!(widened(&values, &[2, 2], &[2, 2]).unwrap(), values);
        assert_eq!(widened(&values, &[2, 2], &[2, 1]), None);
        assert_eq!(widened(&values, &[2, 2], &[3, 2]), None);
        assert_eq!(widened(&values, &[4], &[]), None);
    }

    #[test]
    fn numbers_come_back_to_the_bit_and_what_is_not_finite_is_found() {
        let mut values: Vec<f32> = (0..3_000).map(|at| (at as f32 * 0.7).sin()).collect();
        assert_eq!(from_le_bytes(&to_le_bytes(&values)), values);
        assert_eq!(first_not_finite(&values), None);
        for (at, value) in [(2_999, f32::NAN), (1_024, f32::INFINITY), (0, f32::NEG_INFINITY)] {
            values[at] = value;
            assert_eq!(first_not_finite(&values), Some(at));
            assert_eq!(from_le_bytes(&to_le_bytes(&values))[at].to_bits(), value.to_bits());
        }
    }
}
