//go:build linux

// Command bench measures the relay as users run it, beside its peers: whole
// processes, with backends and load in processes of their own, so that the
// CPU time, memory and descriptors of the relay are seen alone.
//
//	go run ./bench                       # everything, about a quarter of an hour
//	go run ./bench -short                # does it work at all
//	go run ./bench -rows 'UDP' -rounds 5 # some rows, more often
//	go run ./bench -write docs/performance.md
//
// It is run from the root of the repository, on loopback addresses only, and
// stops by itself. haproxy and nginx are measured where they are installed.
//
// main.go has the command, targets.go what is measured, rows_tcp.go,
// rows_udp.go and failover.go the work, each with the load that makes it;
// backend.go is what stands behind the relays, table.go what comes out.
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
		err = command()
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
	flag.IntVar(&o.rounds, "rounds", 3, "how often each target does each row")
	flag.DurationVar(&o.window, "window", time.Second, "how long one measurement lasts")
	flag.BoolVar(&o.short, "short", false, "one short round with little load: tells whether it works, and no more")
	flag.StringVar(&o.write, "write", "", "write the table to this `file`; where it has a line "+tableBegins+", only between that and "+tableEnds)
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the Caddy targets to this `directory`; makes them slower")
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

func command() error {
	o, err := parseFlags()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // children die with the thread that started them

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

// bench is one run of the command.
type bench struct {
	options
	dir     string
	built   string // the commit that the relay was built of
	targets []target
	backend *child
	behind  backendPorts
	turn    int // counts measurements, for ports and backend addresses
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
	if err := json.NewDecoder(b.backend.out).Decode(&b.behind); err != nil {
		return nil, fmt.Errorf("backend: %w: %s", err, b.backend.complaint())
	}
	return b, nil
}

// run does each row in rounds, all targets in turn in each.
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
				t := b.targets[(i+round)%len(b.targets)] // nobody is always first
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

// measure starts a target, has the load do the row's work on it, and stops it.
func (b *bench) measure(r row, t target) (values, error) {
	b.turn++
	s, err := b.setup(r)
	if err != nil {
		return nil, err
	}
	j := r.job
	j.Window, j.Control = b.window, b.behind.Control
	if t.command == nil {
		if j.Addr = s.backends[0]; r.group == failover {
			j.Addr = b.behind.Live
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
