// The board of docker/grafana/board.json, made by the types of Grafana's own SDK:
//
//	go run -C docker/grafana/board . >docker/grafana/board.json
//
// A row for each question. tests/board.rs runs every query against a real Prometheus.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

type query struct{ expr, legend string }

// Units are Grafana's: "none" counts, "s", "bytes", "percentunit".
type panel struct {
	title, what, unit string
	queries           []query
}

type row struct {
	question string
	panels   []panel
}

var rows = []row{
	{"Where does the difference go?", []panel{
		{"Events a second", "What is offered, what each stage passes on. Offered above delivered is the difference.", "none", []query{
			{`sum(rate(producer_events_sent_total[10s]))`, "offered"},
			{`sum(rate(processor_events_fetched_total[10s]))`, "fetched"},
			{`sum(rate(processor_events_acked_total[10s]))`, "acked"},
			{`sum(rate(sink_events_total[10s]))`, "delivered"},
			{`sum(rate(processor_events_shed_total[10s])) or vector(0)`, "shed"},
		}},
		{"Events that wait", "In the log (lag), in the queue, before the brokers. One of them grows.", "none", []query{
			{`sum(processor_lag_events)`, "in the log, not committed"},
			{`sum(processor_queue_depth)`, "in the queue"},
			{`sum(producer_backlog_events)`, "due, not sent"},
		}},
		{"Seconds behind", "What the lag takes at the rate of now. No line: nothing is acked.", "s", []query{
			{`job:processor_lag_seconds:ratio1m`, "{{job}}"},
		}},
	}},
	{"Who is slow?", []panel{
		{"p99 of the last 10 s by stage", "Each event's way: log, fetched, queue, worker, sink. end_to_end is their sum.", "s", []query{
			{`max by (stage) (latency_quantile_seconds{quantile="0.99"})`, "{{stage}}"},
		}},
		{"Calls of the sink a second", "retried: 429, 5xx, a cut connection, no answer in time.", "none", []query{
			{`sum by (result) (rate(processor_sink_calls_total[10s]))`, "{{result}}"},
		}},
		{"Requests that wait at the sink", "Always above 0: the sink gives all that its limit allows.", "none", []query{
			{`sum(sink_waiting_requests)`, "waiting"},
		}},
	}},
	{"Is anybody about to be evicted?", []panel{
		{"Longest poll gap, of what evicts", "At 1 the group takes the partitions away.", "percentunit", []query{
			{`processor_poll_gap_seconds / processor_max_poll_interval_seconds`, "{{instance}}"},
		}},
		{"Partitions by member", "A member without any waits; a rebalance moves them.", "none", []query{
			{`processor_partitions`, "{{instance}}"},
		}},
		{"Evictions, rebalances, commits that were not taken", "Since each program's start.", "none", []query{
			{`sum(processor_evictions_total)`, "evictions"},
			{`sum(processor_rebalances_total)`, "rebalances"},
			{`sum(processor_commits_total{result!="ok"}) or vector(0)`, "commits not taken"},
		}},
	}},
	{"What does it cost?", []panel{
		{"Memory", "Resident, of each program; and the processor's heap in use.", "bytes", []query{
			{`process_resident_memory_bytes`, "{{job}} {{instance}}"},
			{`heap_inuse_bytes{job="processor"}`, "heap of {{instance}}"},
		}},
		{"Cores", "CPU seconds a second.", "none", []query{
			{`rate(process_cpu_seconds_total[10s])`, "{{job}} {{instance}}"},
		}},
		{"What went wrong with events", "Lost with the log, given up as invalid, delivered twice, out of order, bent.", "none", []query{
			{`sum(processor_events_lost_total) or vector(0)`, "lost"},
			{`sum(processor_events_invalid_total) or vector(0)`, "invalid"},
			{`sum(sink_duplicates_total)`, "duplicates"},
			{`sum(sink_order_violations_total)`, "out of order"},
			{`sum(sink_corrupt_total)`, "bent"},
		}},
	}},
}

var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("prometheus")}

func drawn(p panel) *timeseries.PanelBuilder {
	b := timeseries.NewPanelBuilder().
		Title(p.title).Description(p.what).Unit(p.unit).Min(0).
		Datasource(source).Span(8).Height(8)
	for n, q := range p.queries {
		b.WithTarget(prometheus.NewDataqueryBuilder().
			Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + n))).Range().Datasource(source))
	}
	return b
}

func main() {
	b := dashboard.NewDashboardBuilder("Backpressure lab").Uid("backpressure-lab").
		Description("What backpressure does to this pipeline: a row for each question.").
		Tags([]string{"kafka", "backpressure"}).
		Time("now-15m", "now").Refresh("5s").Timezone("utc")
	for _, r := range rows {
		b.WithRow(dashboard.NewRowBuilder(r.question))
		for _, p := range r.panels {
			b.WithPanel(drawn(p))
		}
	}
	made, err := b.Build()
	if err == nil {
		out := json.NewEncoder(os.Stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		err = out.Encode(made)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "board:", err)
		os.Exit(1)
	}
}
