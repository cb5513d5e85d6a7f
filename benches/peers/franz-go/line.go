// The line of a lap, as `lap` prints it and `table` reads it.

package main

// line is what a lap prints, and what `table` reads.
type line struct {
	// What was run, from the flags.
	Kind  string `json:"kind"`
	Round int    `json:"round"`
	Who   string `json:"who"`
	// What was varied: the queue in a race; in a curve an axis and its value.
	Mode string `json:"mode"`
	// What it was run on.
	Events     uint64 `json:"events"`
	ValueBytes uint64 `json:"value_bytes"`
	Transform  string `json:"transform,omitempty"`
	// Why there are no figures.
	Error string `json:"error,omitempty"`

	*Figures
}

// Figures are those of a sound lap. The name is exported because encoding/json must make one.
type Figures struct {
	// From the first request at the sink to the last, or from a producer's own start to its last
	// acknowledgement.
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"events_per_s"`
	// User plus system time of the contestant from its start; of a consumer also the part of it
	// before the first event arrived.
	CPUMicros      float64 `json:"cpu_us_per_event"`
	CPUStartMillis float64 `json:"cpu_start_ms,omitempty"`
	PeakMB         float64 `json:"peak_rss_mb"`
	// Of the brokers together, and of the sink, from the lap's start on.
	BrokersMicros float64 `json:"brokers_cpu_us_per_event,omitempty"`
	SinkMicros    float64 `json:"sink_cpu_us_per_event,omitempty"`
	// What the sink saw.
	Duplicates  uint64  `json:"duplicates"`
	Requests    uint64  `json:"requests,omitempty"`
	BatchEvents float64 `json:"batch_events,omitempty"`
}
