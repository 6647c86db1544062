//go:build linux

// Command bench measures the relay next to its peers, as whole processes.
// Backends and load run in processes of their own, so that the CPU time, memory
// and descriptors that it reads are those of the relay alone.
//
//	go run ./bench                       # everything, about half an hour
//	go run ./bench -short                # only checks that everything runs
//	go run ./bench -rows 'UDP' -rounds 5 # some rows, more often
//	go run ./bench -write docs/performance.md
//
// Run it from the root of the repository. It uses loopback addresses only and
// stops by itself. haproxy and nginx are measured if they are installed.
//
// main.go has the command, targets.go the relays that are measured, and
// rows_tcp.go, rows_udp.go, failover.go, killed.go and rows_load.go the rows of the
// table, each with its load. backend.go has the backends, and table.go the report.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
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
	default:
		if len(os.Args) == 5 && os.Args[1] == "mortal" {
			err = serveMortal(os.Args[2], os.Args[3], os.Args[4])
			break
		}
		err = runBench()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags of the command.
type options struct {
	rows, targets  *regexp.Regexp
	rounds         int
	window         time.Duration
	short          bool
	write, profile string
}

func parseFlags() (options, error) {
	var o options
	rows := flag.String("rows", "", "only rows whose name matches this `regexp`")
	targets := flag.String("targets", "", "only targets whose name matches this `regexp`")
	flag.IntVar(&o.rounds, "rounds", 3, "how many times to measure each target in each row")
	flag.DurationVar(&o.window, "window", time.Second, "the length of one measurement")
	flag.BoolVar(&o.short, "short", false, "one short round with little load, which only checks that everything runs")
	flag.StringVar(&o.write, "write", "", "write the table to this `file`; if it has a line "+tableBegins+", replace only the text from there to "+tableEnds)
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the Caddy targets to this `directory`; this makes them slower")
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

	dir, err := os.MkdirTemp("", "relay-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		stopAll()
		_ = os.RemoveAll(dir)
		os.Exit(130)
	}()

	b, err := newBench(o, dir)
	if err != nil {
		return err
	}
	defer b.backend.stop()
	results := b.run()
	report := results.markdown(b.about())
	fmt.Print("\n", report)
	if o.write == "" {
		return nil
	}
	return writeReport(o.write, report)
}

// bench is the state of one run of the command.
type bench struct {
	options
	dir     string
	built   string // the commit that the relay was built from
	targets []target
	backend *child
	ports   backendPorts
	turn    int // number of the measurement; selects ports and backend addresses
}

func newBench(o options, dir string) (*bench, error) {
	b := &bench{options: o, dir: dir, built: commit()}
	var err error
	if b.targets, err = findTargets(dir); err != nil {
		return nil, err
	}
	b.backend, err = startChild(dir, os.Args[0], "backend")
	if err != nil {
		return nil, err
	}
	if err := json.NewDecoder(b.backend.out).Decode(&b.ports); err != nil {
		return nil, fmt.Errorf("backend: %w: %s", err, b.backend.errorOutput())
	}
	return b, nil
}

// run measures each row in rounds. Each round measures all targets in turn.
func (b *bench) run() *results {
	all := &results{}
	for _, r := range allRows(b.short) {
		if !b.rows.MatchString(r.name) {
			continue
		}
		for _, m := range r.metrics {
			all.begin(r.group, r.name, m)
		}
		for round := range b.rounds {
			fmt.Fprintf(os.Stderr, "%s, round %d:", r.name, round+1)
			for i := range b.targets {
				t := b.targets[(i+round)%len(b.targets)] // a different target is first in each round
				if !t.does(r) || !b.options.targets.MatchString(t.name) {
					continue
				}
				got, err := b.measure(r, t)
				if err != nil {
					fmt.Fprintf(os.Stderr, "\n%s, %s: %v\n", r.name, t.name, err)
					all.fail(r.name, t.name, err)
					continue
				}
				fmt.Fprintf(os.Stderr, " %s", t.name)
				for _, m := range r.metrics {
					if v, ok := got[m.key]; ok {
						all.add(r.name, m, t.name, v)
						fmt.Fprintf(os.Stderr, " %s", number(v))
					}
				}
				fmt.Fprint(os.Stderr, ";")
			}
			fmt.Fprintln(os.Stderr)
		}
	}
	return all
}

// measure starts a target, runs the row's load on it, and stops it.
func (b *bench) measure(r row, t target) (values, error) {
	b.turn++
	s, err := b.setup(r)
	if err != nil {
		return nil, err
	}
	if r.group == loading {
		return b.measureLoading(t, s)
	}
	j := r.job
	j.Window, j.Control = b.window, b.ports.Control
	if s.killed {
		var stop func()
		s.backends, stop, err = b.startMortals(r)
		defer stop()
		if err != nil {
			return nil, err
		}
		j.Backends = s.backends
	}
	if t.command == nil { // direct
		if j.Addr = s.backends[0]; r.group == failover {
			j.Addr = b.ports.Live
		}
		return runLoad(b.dir, j)
	}
	argv, err := t.command(s)
	if err != nil {
		return nil, err
	}
	c, err := startChild(b.dir, argv...)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := c.waitListening(r.network, s.listen); err != nil {
		return nil, err
	}
	j.Addr = s.listen
	if j.PIDs, err = c.family(); err != nil {
		return nil, err
	}
	if b.profile != "" && t.caddy {
		defer b.takeProfile(r, t, s)()
	}
	return runLoad(b.dir, j)
}
