package main

import (
	"regexp"
	"strings"
	"testing"
)

// Prevents: a mean for a median, a failed lap with a speed, a ratio that is upside down.
func TestTableOfLaps(t *testing.T) {
	lines := `{"kind":"host","says":"on a machine"}
{"kind":"race","round":1,"who":"ours","mode":"bounded","value_bytes":500,"events_per_s":900000,"cpu_us_per_event":0.5,"peak_rss_mb":20,"duplicates":1}
{"kind":"race","round":1,"who":"franz-go","mode":"bounded","value_bytes":500,"events_per_s":400000,"cpu_us_per_event":2,"peak_rss_mb":80}
{"kind":"race","round":2,"who":"ours","mode":"bounded","value_bytes":500,"events_per_s":800000,"cpu_us_per_event":1,"peak_rss_mb":40,"duplicates":2}
{"kind":"race","round":3,"who":"ours","mode":"bounded","value_bytes":500,"events_per_s":100000,"cpu_us_per_event":9,"peak_rss_mb":30}
{"kind":"race","round":1,"who":"ours","mode":"pull","error":"9 of 10 ids delivered"}
`
	var out strings.Builder
	if err := tabulate(strings.NewReader(lines), &out); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	for _, want := range []string{
		"on a machine\n",
		" bounded ours 3 800 (100-900) 1.00 (0.50-9.00) 30 (20-40) 2.00 0.50 0.38 400 0.00 0.00 0 3\n",
		" bounded franz-go 1 400 (400-400) 2.00 (2.00-2.00) 80 (80-80) 200 ",
		" pull ours 0 - - -",
		"ours pull: laps failed: 1: round 1: 9 of 10 ids delivered\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
