//! The network beside its formulas, written down once more in f64 and with nothing but loops.
use tidegate_model::{Architecture, Batch, CpuBackend, Features};

use crate::samples::{self, Tensors};

/// `[rows][columns]`.
type Matrix = Vec<Vec<f64>>;

struct Reference<'a> {
    a: &'a Architecture,
    tensors: &'a Tensors,
}

impl Reference<'_> {
    fn vector(&self, name: &str) -> Vec<f64> {
        self.tensors[name].1.iter().map(|v| f64::from(*v)).collect()
    }

    fn matrix(&self, name: &str) -> Matrix {
        let columns = *self.tensors[name].0.last().unwrap();
        self.vector(name).chunks_exact(columns).map(<[f64]>::to_vec).collect()
    }

    /// One expert's matrix out of `[experts, rows, columns]`.
    fn expert(&self, name: &str, expert: usize) -> Matrix {
        let rows = self.tensors[name].0[1];
        self.matrix(name)[expert * rows..(expert + 1) * rows].to_vec()
    }

    fn norm(&self, name: &str, x: &Matrix) -> Matrix {
        let gain = self.vector(&format!("{name}.gain"));
        x.iter()
            .map(|row| {
                let mean_square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                let scale = (mean_square + self.a.norm_epsilon).sqrt();
                row.iter().zip(&gain).map(|(v, gain)| v / scale * gain).collect()
            })
            .collect()
    }

    /// Turns one head's vector by its position.
    fn turn(&self, head: &[f64], position: usize) -> Vec<f64> {
        let half = head.len() / 2;
        let mut turned = vec![0.0; head.len()];
        for i in 0..half {
            let speed = self.a.rope_base.powf(-2.0 * i as f64 / head.len() as f64);
            let (sin, cos) = (position as f64 * speed).sin_cos();
            turned[i] = head[i] * cos - head[i + half] * sin;
            turned[i + half] = head[i + half] * cos + head[i] * sin;
        }
        turned
    }

    fn attention(&self, name: &str, x: &Matrix) -> Matrix {
        let project = |part: &str| product(x, &self.matrix(&format!("{name}.{part}")));
        let (query, key, value) = (project("query"), project("key"), project("value"));
        let width = self.a.head_width();
        let mut seen = vec![vec![0.0; self.a.d_model]; x.len()];
        for head in 0..self.a.heads {
            let shared = head / (self.a.heads / self.a.kv_heads);
            for at in 0..x.len() {
                let q = self.turn(&query[at][head * width..(head + 1) * width], at);
                let scores: Vec<f64> = (0..x.len())
                    .map(|other| {
                        let k = &key[other][shared * width..(shared + 1) * width];
                        dot(&q, &self.turn(k, other)) / (width as f64).sqrt()
                    })
                    .collect();
                let total: f64 = scores.iter().map(|score| score.exp()).sum();
                for (other, score) in scores.iter().enumerate() {
                    for i in 0..width {
                        seen[at][head * width + i] +=
                            score.exp() / total * value[other][shared * width + i];
                    }
                }
            }
        }
        product(&seen, &self.matrix(&format!("{name}.out")))
    }

    fn swiglu(x: &[f64], gate: &Matrix, up: &Matrix, down: &Matrix) -> Vec<f64> {
        let x = vec![x.to_vec()];
        let (gate, up) = (product(&x, gate), product(&x, up));
        let silu = |v: f64| v / (1.0 + (-v).exp());
        let hidden = gate[0].iter().zip(&up[0]).map(|(g, u)| silu(*g) * u).collect();
        product(&vec![hidden], down).remove(0)
    }

    /// Adds each expert's number of tokens to `counts`.
    fn mixture(&self, name: &str, x: &Matrix, counts: &mut [f64]) -> Matrix {
        let bias = self.vector(&format!("{name}.bias"));
        let affinities = product(x, &self.matrix(&format!("{name}.router")));
        x.iter()
            .zip(affinities)
            .map(|(row, affinity)| {
                let affinity: Vec<f64> =
                    affinity.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect();
                let mut order: Vec<usize> = (0..self.a.experts).collect();
                order.sort_by(|i, j| {
                    (affinity[*j] + bias[*j]).total_cmp(&(affinity[*i] + bias[*i]))
                });
                let chosen = &order[..self.a.top_k];
                let total: f64 = chosen.iter().map(|i| affinity[*i]).sum();
                let part = |part: &str| self.matrix(&format!("{name}.shared.{part}"));
                let mut out = Self::swiglu(row, &part("gate"), &part("up"), &part("down"));
                for &i in chosen {
                    counts[i] += 1.0;
                    let part = |part: &str| self.expert(&format!("{name}.{part}"), i);
                    let said = Self::swiglu(row, &part("gate"), &part("up"), &part("down"));
                    for (out, said) in out.iter_mut().zip(said) {
                        *out += affinity[i] / total * said;
                    }
                }
                out
            })
            .collect()
    }

    /// Logits of one text; `counts[layer][expert]` gets its tokens.
    fn logits(&self, features: &Features, counts: &mut [Vec<f64>]) -> Vec<f64> {
        let embedding = self.matrix("embedding");
        let tokens = if features.tokens.is_empty() { &[0][..] } else { &features.tokens };
        let mut x: Matrix = tokens.iter().map(|t| embedding[*t as usize].clone()).collect();
        for (layer, counts) in counts.iter_mut().enumerate() {
            let name = |part: &str| format!("blocks.{layer}.{part}");
            let seen = self.norm(&name("attention_norm"), &x);
            x = sum(&x, &self.attention(&name("attention"), &seen));
            let seen = self.norm(&name("mixture_norm"), &x);
            x = sum(&x, &self.mixture(&name("mixture"), &seen, counts));
        }
        let x = self.norm("norm", &x);
        let mean = (0..self.a.d_model)
            .map(|i| x.iter().map(|row| row[i]).sum::<f64>() / x.len() as f64)
            .collect();
        let mut logits = product(&vec![mean], &self.matrix("head.weight")).remove(0);
        let wide = self.matrix("wide.rows");
        for (class, logit) in logits.iter_mut().enumerate() {
            *logit += self.vector("head.bias")[class];
            for (bucket, value) in &features.grams {
                *logit += f64::from(*value) * wide[*bucket as usize][class];
            }
        }
        logits
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let column = |j: usize| b.iter().map(|row| row[j]).collect::<Vec<_>>();
    let columns: Vec<Vec<f64>> = (0..b[0].len()).map(column).collect();
    a.iter().map(|row| columns.iter().map(|column| dot(row, column)).collect()).collect()
}

fn sum(a: &Matrix, b: &Matrix) -> Matrix {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

fn compare(architecture: &Architecture) {
    let bytes = samples::random(architecture, 3, 11);
    let tensors = samples::read(&bytes);
    let weights = samples::load(architecture, 3, &bytes);
    let mut features = samples::featurizer(architecture).features_all(&samples::inputs()).unwrap();
    features.push(Features::default());
    let texts: Vec<&Features> = features.iter().collect();
    let lengths: Vec<usize> = texts.iter().map(|text| text.tokens.len()).collect();
    assert!(lengths.contains(&architecture.context) && lengths.contains(&1), "{lengths:?}");

    let wide = weights.wide.logits(&texts);
    let batch = Batch::<CpuBackend>::new(&texts, &Default::default()).with_wide(wide, 3);
    let output = weights.network.forward(&batch);
    let found: Vec<f32> = output.logits.into_data().into_vec().unwrap();

    let reference = Reference { a: architecture, tensors: &tensors };
    let mut counts = vec![vec![0.0; architecture.experts]; architecture.layers];
    for (text, found) in texts.iter().zip(found.chunks_exact(3)) {
        let expected = reference.logits(text, &mut counts);
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found}, {expected}");
        }
    }
    for (found, counts) in output.loads.iter().zip(counts) {
        let total: f64 = counts.iter().sum();
        for (found, count) in found.0.iter().zip(counts) {
            assert!((f64::from(*found) - count / total).abs() < 1e-6, "{:?}", found);
        }
    }
}

#[test]
fn the_network_computes_its_formulas() {
    compare(&samples::architecture());
}

#[test]
fn the_formulas_hold_with_one_head_one_expert_and_nothing_shared_too() {
    compare(&Architecture {
        heads: 1,
        kv_heads: 1,
        experts: 1,
        top_k: 1,
        shared_experts: 1,
        ..samples::architecture()
    });
    compare(&Architecture { kv_heads: 1, top_k: 5, ..samples::architecture() });
}
