use super::*;
use std::time::Duration;

#[test]
fn counters_and_gauges_are_text_that_prometheus_reads() {
    let mut metrics = Metrics::default();
    metrics.counter("ray_tasks_submitted", "Calls", 3);
    metrics.counters(
        "ray_spill_manager_objects_bytes",
        "Bytes",
        "State",
        &[("Spilled", 5), ("Restored", 0)],
    );
    metrics.gauge("ray_object_store_used_memory", "Used", 7);
    metrics.gauges("ray_actors", "Actors", "State", &[("ALIVE", 2)]);
    let expected = "\
# HELP ray_tasks_submitted Calls
# TYPE ray_tasks_submitted counter
ray_tasks_submitted_total 3
# HELP ray_spill_manager_objects_bytes Bytes
# TYPE ray_spill_manager_objects_bytes counter
ray_spill_manager_objects_bytes_total{State=\"Spilled\"} 5
ray_spill_manager_objects_bytes_total{State=\"Restored\"} 0
# HELP ray_object_store_used_memory Used
# TYPE ray_object_store_used_memory gauge
ray_object_store_used_memory 7
# HELP ray_actors Actors
# TYPE ray_actors gauge
ray_actors{State=\"ALIVE\"} 2
# EOF
";
    assert_eq!(metrics.render(), expected);
}

#[test]
fn durations_fall_into_the_buckets_that_hold_them() {
    let mut histogram = DurationHistogram::default();
    histogram.observe(Duration::from_micros(100));
    histogram.observe(Duration::from_micros(101));
    histogram.observe(Duration::from_secs(2));
    histogram.observe(Duration::from_hours(1));
    assert_eq!(histogram.count(), 4);
    assert!((histogram.sum_seconds() - 3_602.000_201).abs() < 1e-9);
    let mut metrics = Metrics::default();
    metrics.durations("ray_wait_seconds", "Waits", &histogram);
    let text = metrics.render();
    for line in [
        "ray_wait_seconds_count 4",
        "ray_wait_seconds_bucket{le=\"0.0001\"} 1",
        "ray_wait_seconds_bucket{le=\"0.0003\"} 2",
        "ray_wait_seconds_bucket{le=\"1.0\"} 2",
        "ray_wait_seconds_bucket{le=\"3.0\"} 3",
        "ray_wait_seconds_bucket{le=\"300.0\"} 3",
        "ray_wait_seconds_bucket{le=\"+Inf\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}
