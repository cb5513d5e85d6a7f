// A franz-go program that does the same job as this project's processor and producer, and the tools
// to race the two: run/bench.sh runs it.
//
//	pipe      consumes a topic in a group and posts the values to a sink, as `processor` does
//	produce   sends events flat out, as `producer` does
//	fill      fills a topic for a race
//	sink      counts every id that arrives, at no limited rate
//	lap       runs one contestant once and prints what it took as a JSON line
//	table     makes a table of such lines
//
// On a cluster it changes only the topic and the group of its flags; it creates no topic.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// usageError is a mistake of the caller: exit code 2.
type usageError struct{ error }

func misuse(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// commands take their arguments and end when the context ends: at SIGTERM or SIGINT.
var commands = map[string]func(context.Context, []string) error{
	"pipe": pipe, "produce": produce, "fill": fill, "sink": sink, "lap": lap, "table": table,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "usage: %s pipe|produce|fill|sink|lap|table [FLAGS]   (each has -h)\n", os.Args[0])
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := commands[os.Args[1]](ctx, os.Args[2:])
	stop()
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
	if errors.As(err, &usageError{}) {
		os.Exit(2)
	}
	os.Exit(1)
}

// parse reads flags; other words are an error unless `rest` allows them.
func parse(flags *flag.FlagSet, args []string, rest bool) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	if !rest && flags.NArg() > 0 {
		return misuse("unexpected %q", flags.Arg(0))
	}
	return nil
}

// say prints one JSON line on stdout.
func say(line any) error {
	return json.NewEncoder(os.Stdout).Encode(line)
}
