//! The benchmarks' arithmetic and goals, by their own tests in Python.

use std::process::Command;

#[test]
fn the_benchmarks_figures_and_goals_pass_their_tests() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new("python3")
        // No byte code beside the sources.
        .args(["-B", "-m", "unittest", "discover", "--start-directory", "tests/scripts"])
        .current_dir(root)
        .env("PYTHONPATH", format!("{root}/scripts/lib/bench"))
        .output()
        .expect("python3 is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Ran 0 tests"), "{said}");
}
