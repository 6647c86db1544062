//go:build linux

// Command bench measures the relay next to its peers, as whole processes.
// Backends and load run in processes of their own, so that the CPU time, memory
// and descriptors that it reads are those of the relay alone.
//
//	go run ./bench                       # everything
//	go run ./bench -quick                # what the aims need
//	go run ./bench -short                # only checks that everything runs
//	go run ./bench -rows 'UDP' -rounds 5 # some rows, more often
//	go run ./bench -write docs/performance.md -json now.json
//	go run ./bench -compare old.json
//
// Run it from the root of the repository. It uses loopback addresses, as root in network
// namespaces of its own, and stops by itself. haproxy and nginx are measured if they are
// installed.
//
// main.go has the command, and bench.go the run. The relays that are measured are in
// targets.go, their configs in configs.go. rows_*.go, oneway.go, failover.go and
// killed.go have the rows, each with its load; backend.go has the backends, network.go
// the bench's own network, and slowpath.go a slow one. What is read of the kernel is in proc.go,
// measure_linux.go and span_linux.go. results.go holds the results; table.go, aims.go,
// compare.go and report.go show them. goals.go has what the results should be.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var err error
	switch role := strings.Join(os.Args[1:], " "); role {
	case "backend":
		err = serveBackend(os.Stdin, os.Stdout)
	case "load":
		err = load(os.Stdin, os.Stdout)
	case "wire":
		err = serveWire(os.Stdin)
	default:
		switch {
		case len(os.Args) == 5 && os.Args[1] == "mortal":
			err = serveMortal(os.Args[2], os.Args[3], os.Args[4])
		case len(os.Args) == 3 && os.Args[1] == "echo":
			err = serveEcho(os.Args[2], os.Stdin, os.Stdout)
		default:
			err = runBench()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags of the command.
type options struct {
	rows, targets       *regexp.Regexp
	rounds              int
	window              time.Duration
	short, quick        bool
	write, profile      string
	json, from, compare string
	nginx, haproxy      string
}

func parseFlags() (options, error) {
	var o options
	rows := flag.String("rows", "", "only rows whose name matches this `regexp`")
	targets := flag.String("targets", "", "only targets whose name matches this `regexp`")
	flag.IntVar(&o.rounds, "rounds", 3, "how many times to measure each target in each row")
	flag.DurationVar(&o.window, "window", time.Second, "the length of one measurement")
	flag.BoolVar(&o.short, "short", false, "one short round with little load, which only checks that everything runs")
	flag.BoolVar(&o.quick, "quick", false, "leave out the targets that no aim depends on, and rows that are long or similar to others")
	flag.StringVar(&o.write, "write", "", "replace the generated parts of this `file` and of README.md next to its directory")
	flag.StringVar(&o.json, "json", "", "write the results to this `file`")
	flag.StringVar(&o.from, "from", "", "begin with the results of this `file` of -json; rows that are measured replace its rows")
	flag.StringVar(&o.compare, "compare", "", "print what is more than 2 % worse than in this `file` of -json")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the Caddy targets to this `directory`; this makes them slower")
	flag.StringVar(&o.nginx, "nginx", "nginx", "the nginx to measure")
	flag.StringVar(&o.haproxy, "haproxy", "haproxy", "the haproxy to measure")
	flag.Parse()
	if flag.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	var err error
	if o.rows, err = regexp.Compile(*rows); err != nil {
		return o, err
	}
	if o.targets, err = regexp.Compile(*targets); err != nil {
		return o, err
	}
	if o.short {
		o.rounds, o.window = 1, 100*time.Millisecond
	}
	return o, nil
}

func runBench() error {
	o, err := parseFlags()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the kernel kills a child when the thread that started it ends

	network, dir, first, err := beginStage()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		stopAll()
		for deadline := time.Now().Add(time.Second); os.RemoveAll(dir) != nil && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // killed processes may still write files
		}
		os.Exit(130)
	}()

	all, old := &results{}, (*results)(nil)
	if o.from != "" {
		if all, err = loadResults(o.from); err != nil {
			return err
		}
	}
	if o.compare != "" {
		if old, err = loadResults(o.compare); err != nil {
			return err
		}
	}
	rows := allRows(o)
	if slices.ContainsFunc(rows, func(r row) bool { return o.rows.MatchString(r.name) }) {
		if first {
			if err := buildRelay(dir); err != nil {
				return err
			}
			if err := nextStage(network, dir); err != nil {
				return err
			}
		}
		b, err := newBench(o, dir, network)
		if err != nil {
			return err
		}
		defer b.stop()
		if err := b.run(all); err != nil {
			return err
		}
	}
	fmt.Print("\n", all.about(), "\n", judgement(all.verdicts(goals(rows))), all.tables(rows))
	if old != nil {
		fmt.Print("\n", all.compare(old))
	}
	if o.write == "" {
		return nil
	}
	return all.write(o.write, rows)
}
