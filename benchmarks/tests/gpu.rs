//! `gpu` in miniature, on the operators that a GPU uses, on the CPU.
use std::{path::PathBuf, process::Command};

fn gpu() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gpu"))
}

/// PyTorch, where `setup/torch.sh` has been.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("TIDEGATE_CACHE").map(PathBuf::from)?;
    Some(cache.join("torch/bin/python")).filter(|python| python.exists())
}

#[test]
fn the_miniature_checks_times_and_writes_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    // Its peer's scripts are inside of it: it is at home in any folder.
    let mut run = gpu();
    run.current_dir(folder.path());
    run.args(["--device", "cpu", "--small", "--seconds", "0.1", "--out", "figures/gpu.json"]);
    if let Some(python) = python() {
        run.arg("--python").arg(python);
    }
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("attend, causal, grouped queries, prefix"), "{said}");
    let figures = std::fs::read(folder.path().join("figures/gpu.json")).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&figures).unwrap();
    let result = &figures["result"];
    assert_eq!(result["miniature"], true);
    assert!(result["matmul"]["best"].as_f64().unwrap() > 1e6);
    let ours = result["ours"].as_array().unwrap();
    for (of, routing) in ours.iter().zip(["balanced", "router"]) {
        assert_eq!(of["routing"], routing);
        assert!(of["tokens_per_s"].as_f64().unwrap() > 0.0 && of["steps"].as_u64().unwrap() > 0);
        let share = of["share_of_matmul_rate"].as_f64().unwrap();
        assert!(share > 0.0 && share < 1.0, "{share}");
    }
    assert!((ours[0]["fullest_expert"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert!(ours[1]["fullest_expert"].as_f64().unwrap() > 1.0);
    assert!(result["checks"].as_array().unwrap().len() > 150);
    if python().is_some() {
        assert!(result["ratio"]["router"].as_f64().unwrap() > 0.0, "{result}");
    } else {
        assert!(said.contains("no peer"), "{said}");
    }
}

#[test]
fn what_it_cannot_do_it_says() {
    let said = |arguments: &[&str]| {
        let output = gpu().args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["--device", "cpu"]).contains("--small"));
    if cfg!(not(feature = "cuda")) {
        assert!(said(&[]).contains("--features cuda"));
    }
}
