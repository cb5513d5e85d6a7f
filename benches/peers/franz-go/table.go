// table makes a table of the lines of laps: for each contestant the median of its laps and, in
// brackets, the minimum and the maximum; for ours the ratio of its median to that of franz-go in
// the same mode.
//
// Invariant: figures use only laps without an error; failed laps are counted and listed below the
// table. The order is that of the lines.

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// peerName is the contestant that the others are compared with.
const peerName = "franz-go"

// host is the first line of a file: what all laps have in common.
type host struct {
	Kind string `json:"kind"`
	Says string `json:"says"`
}

// lane is one contestant in one mode.
type lane struct {
	mode, who string
	laps      []line
	errors    []string
}

func table(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("table FILE", flag.ContinueOnError)
	if err := parse(flags, args, true); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return misuse("expected one file of lines")
	}
	file, err := os.Open(flags.Arg(0))
	if err != nil {
		return err
	}
	defer file.Close()
	return tabulate(file, os.Stdout)
}

// tabulate reads lines and writes the table.
func tabulate(lines io.Reader, out io.Writer) error {
	var head host
	var lanes []*lane
	text := bufio.NewScanner(lines)
	text.Buffer(nil, 1<<20)
	for n := 1; text.Scan(); n++ {
		var l line
		if err := json.Unmarshal(text.Bytes(), &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if l.Kind == "host" {
			if err := json.Unmarshal(text.Bytes(), &head); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
			continue
		}
		at := slices.IndexFunc(lanes, func(o *lane) bool { return o.mode == l.Mode && o.who == l.Who })
		if at < 0 {
			at = len(lanes)
			lanes = append(lanes, &lane{mode: l.Mode, who: l.Who})
		}
		if l.Figures == nil {
			lanes[at].errors = append(lanes[at].errors, fmt.Sprintf("round %d: %s", l.Round, cmp.Or(l.Error, "no figures")))
		} else {
			lanes[at].laps = append(lanes[at].laps, l)
		}
	}
	if err := text.Err(); err != nil {
		return err
	}
	if head.Says != "" {
		fmt.Fprintln(out, head.Says)
	}
	write(out, lanes)
	return nil
}

func write(out io.Writer, lanes []*lane) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "mode\twho\tlaps\tevents/s k\tCPU us/event\tpeak RSS MB\tspeed x\tCPU x\tRSS x\tMB/s\tbrokers us\tsink us\tbatch\tduplicates\t")
	for _, it := range lanes {
		if len(it.laps) == 0 {
			fmt.Fprintf(w, "%s\t%s\t0\t-\t-\t-\t\t\t\t\t\t\t\t\t\n", it.mode, it.who)
			continue
		}
		var peer *lane
		if at := slices.IndexFunc(lanes, func(o *lane) bool {
			return o.mode == it.mode && o.who == peerName && len(o.laps) > 0
		}); at >= 0 && it.who != peerName {
			peer = lanes[at]
		}
		speed, cpu, peak := it.of(perSecond), it.of(cpuMicros), it.of(peakMB)
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%.2f\t%.2f\t%.0f\t%d\t\n",
			it.mode, it.who, len(it.laps), speed.show(1e3, 0), cpu.show(1, 2), peak.show(1, 0),
			ratio(speed, peer, perSecond), ratio(cpu, peer, cpuMicros), ratio(peak, peer, peakMB),
			speed.median*float64(it.laps[0].ValueBytes)/1e6,
			it.of(func(l line) float64 { return l.BrokersMicros }).median,
			it.of(func(l line) float64 { return l.SinkMicros }).median,
			it.of(func(l line) float64 { return l.BatchEvents }).median,
			it.duplicates())
	}
	_ = w.Flush()
	for _, it := range lanes {
		if len(it.errors) > 0 {
			fmt.Fprintf(out, "%s %s: laps failed: %d: %s\n", it.who, it.mode, len(it.errors), strings.Join(it.errors, "; "))
		}
	}
}

func perSecond(l line) float64 { return l.PerSecond }
func cpuMicros(l line) float64 { return l.CPUMicros }
func peakMB(l line) float64    { return l.PeakMB }

// spread is a median with its range.
type spread struct{ least, median, most float64 }

// of returns the spread of one figure of a lane's laps; there is at least one.
func (it *lane) of(figure func(line) float64) spread {
	all := make([]float64, 0, len(it.laps))
	for _, l := range it.laps {
		all = append(all, figure(l))
	}
	slices.Sort(all)
	middle := len(all) / 2
	median := all[middle]
	if len(all)%2 == 0 {
		median = (all[middle-1] + all[middle]) / 2
	}
	return spread{all[0], median, all[len(all)-1]}
}

// show prints at least two decimals where the median is below 10.
func (s spread) show(unit float64, digits int) string {
	if s.median/unit < 10 {
		digits = max(digits, 2)
	}
	return fmt.Sprintf("%.*f (%.*f-%.*f)", digits, s.median/unit, digits, s.least/unit, digits, s.most/unit)
}

func ratio(ours spread, peer *lane, figure func(line) float64) string {
	if peer == nil {
		return ""
	}
	return fmt.Sprintf("%.2f", ours.median/peer.of(figure).median)
}

func (it *lane) duplicates() (sum uint64) {
	for _, l := range it.laps {
		sum += l.Duplicates
	}
	return sum
}
