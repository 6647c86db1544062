//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// bench is the state of one run of the command.
type bench struct {
	options
	dir     string
	built   string // the commit that the relay was built from
	files   uint64 // limit of open files, of each process
	network network
	targets []target
	backend *child
	ports   backendPorts
	path    *slowPath // made by the first row that needs it
	turn    int       // number of the measurement; selects ports and backend addresses
}

func newBench(o options, dir string, n network) (*bench, error) {
	b := &bench{options: o, dir: dir, built: commit(), network: n}
	var err error
	if b.files, err = raiseFileLimit(); err != nil {
		return nil, err
	}
	b.targets = findTargets(o, dir)
	b.backend, err = startChild(dir, os.Args[0], "backend")
	if err != nil {
		return nil, err
	}
	if err := json.NewDecoder(b.backend.out).Decode(&b.ports); err != nil {
		return nil, fmt.Errorf("backend: %w: %s", err, b.backend.errorOutput())
	}
	return b, nil
}

func (b *bench) stop() {
	b.backend.stop()
	if b.path != nil {
		b.path.close()
	}
}

// raiseFileLimit raises the limit of open files, as far as it may, for this process
// and those that it starts. It returns the limit.
func raiseFileLimit() (uint64, error) {
	const enough = 65_536
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Max >= enough {
		limit.Cur = enough
		return enough, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: enough, Max: enough}) == nil { // as root
		return enough, nil
	}
	limit.Cur = limit.Max
	return limit.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// run measures each row in rounds. Each round measures all targets in turn.
func (b *bench) run(all *results) error {
	all.describe(b)
	for _, r := range allRows(b.options) {
		if !b.rows.MatchString(r.name) {
			continue
		}
		all.begin(r.name)
		if err := b.prepare(r); err != nil {
			fmt.Fprintf(os.Stderr, "%s: left out: %v\n", r.name, err)
			all.skip(r.name, err)
			continue
		}
		rounds := b.rounds
		if b.quick && r.group == failover {
			rounds = 1 // they take seconds, and no aim depends on them
		}
		for round := range rounds {
			fmt.Fprintf(os.Stderr, "%s, round %d:", r.name, round+1)
			for i := range b.targets {
				t := b.targets[(i+round)%len(b.targets)] // a different target is first in each round
				if !t.does(r) || !b.options.targets.MatchString(t.name) || b.quick && !t.quick {
					continue
				}
				got, err := b.measure(r, t)
				if err != nil {
					fmt.Fprintf(os.Stderr, "\n%s, %s: %v\n", r.name, t.name, err)
					all.fail(r.name, t.name, err)
					continue
				}
				all.add(r.name, t.name, got)
				fmt.Fprintf(os.Stderr, " %s", t.name)
				for _, m := range r.metrics {
					for _, key := range m.keys {
						if v, ok := got[key]; ok {
							fmt.Fprintf(os.Stderr, " %s", number(v))
						}
					}
				}
				fmt.Fprint(os.Stderr, ";")
			}
			fmt.Fprintln(os.Stderr)
		}
		if b.json != "" { // so that a run that is interrupted can be continued with -from
			if err := all.save(b.json); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare reports why a row cannot be measured here.
func (b *bench) prepare(r row) error {
	if r.congestion != "" {
		available, err := os.ReadFile(availableCongestionFile)
		if err != nil {
			return err
		}
		if err := b.network.can(r.congestion, string(available)); err != nil {
			return err
		}
	}
	switch {
	case r.files > b.files:
		return fmt.Errorf("it needs %d descriptors, and the limit is %d", r.files, b.files)
	case r.oneCore && runtime.NumCPU() < 2:
		return fmt.Errorf("it needs two CPUs")
	case r.distant && b.path == nil:
		path, err := newSlowPath(b.dir)
		if err != nil {
			return err
		}
		b.path = path
	}
	return nil
}

func (b *bench) setup(r row) (setup, error) {
	s := setup{dir: b.dir, network: r.network, responses: r.responses, full: r.full, relay: r.relay, killed: r.job.Gap > 0, oneCore: r.oneCore, files: b.files}
	backends := b.ports.of(r.backends, b.turn)
	if r.distant {
		backends = []string{b.path.backend}
	}
	if len(backends) == 0 && !s.killed && r.backends != ownEcho {
		return s, fmt.Errorf("no backends %q", r.backends)
	}
	if r.backends == namedBackend {
		s.resolver = b.ports.DNS
	}
	port, err := freePort(r.network, b.turn)
	if err != nil {
		return s, err
	}
	for i := range max(r.services, 1) {
		host := loopback
		if r.services > 1 {
			host = fmt.Sprintf("127.4.%d.%d", i/250, i%250+1)
		}
		s.services = append(s.services, service{listen: net.JoinHostPort(host, strconv.Itoa(port)), both: r.group == loading && i%2 == 0, backends: backends})
	}
	if r.beside != nil {
		if port, err = freePort("tcp", b.turn+500); err != nil {
			return s, err
		}
		s.services = append(s.services, service{listen: net.JoinHostPort(loopback, strconv.Itoa(port)), backends: b.ports.of(r.beside.backends, b.turn)})
	}
	if b.profile != "" || r.group == loading {
		if port, err = freePort("tcp", b.turn+1000); err != nil {
			return s, err
		}
		s.admin = net.JoinHostPort(loopback, strconv.Itoa(port))
	}
	return s, nil
}

// measure starts a target, runs the row's load on it, and stops it.
func (b *bench) measure(r row, t target) (v values, err error) {
	b.turn++
	if r.congestion != "" {
		if err := setCongestion(r.congestion); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, setCongestion(defaultCongestion)) }()
	}
	if r.distant {
		leave, err := b.path.enter()
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	s, err := b.setup(r)
	if err != nil {
		return nil, err
	}
	if r.group == loading {
		return b.measureLoading(t, s)
	}
	if r.oneCore {
		release, err := b.share(&s)
		defer release()
		if err != nil {
			return nil, err
		}
	}
	j := r.job
	j.Window, j.Control, j.Backend = b.window, b.ports.Control, b.backend.cmd.Process.Pid
	if t.keeps {
		j.Count = min(j.Count, 9_000) // a session needs a descriptor for as long as the target runs
	}
	if s.killed {
		var stop func()
		s.services[0].backends, stop, err = b.startMortals(r)
		defer stop()
		if err != nil {
			return nil, err
		}
		j.Backends = s.services[0].backends
	}
	if t.command == nil { // direct
		if j.Addr = s.services[0].backends[0]; r.group == failover {
			j.Addr = b.ports.Live
		}
		if r.beside != nil {
			s.services[1].listen = s.services[1].backends[0]
		}
		return b.load(r, t, s, j)
	}
	argv, err := t.command(s)
	if err != nil {
		return nil, err
	}
	c, err := b.startTarget(r, s, argv)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	j.Addr = s.services[0].listen
	if r.services > 1 {
		for _, one := range s.services {
			j.Addrs = append(j.Addrs, one.listen)
		}
	}
	if j.PIDs, err = c.family(); err != nil {
		return nil, err
	}
	return b.load(r, t, s, j)
}

// startTarget starts a target and waits until it listens.
func (b *bench) startTarget(r row, s setup, argv []string) (*child, error) {
	if r.oneCore {
		if err := onCPU(relayCPU); err != nil {
			return nil, err
		}
		defer func() { _ = onCPU(otherCPU) }() // for the load
	}
	c, err := startChild(b.dir, argv...)
	if err != nil {
		return nil, err
	}
	if err := c.waitListening(r.network, s.services[0].listen, max(r.services, 1)); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// load runs a row's load, and the one beside it.
func (b *bench) load(r row, t target, s setup, j job) (values, error) {
	run := func() (values, error) {
		if b.profile != "" && t.caddy {
			defer b.takeProfile(r, t, s)()
		}
		return runLoad(b.dir, j)
	}
	if r.beside == nil {
		return run()
	}
	other := r.beside.job
	other.Addr, other.Window = s.services[1].listen, 2*b.window+500*time.Millisecond
	c, err := startLoad(b.dir, other)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	time.Sleep(300 * time.Millisecond) // until it is in full swing
	if other.Kind == "stalled" {
		// The backend may still be filling the kernel's buffers, up to 33 MB for each client.
		if err := append(meter{b.backend.cmd.Process.Pid}, j.PIDs...).waitIdle(10 * time.Second); err != nil {
			return nil, fmt.Errorf("clients that stopped reading: %w", err)
		}
	}
	v, err := run()
	if err != nil || other.Kind == "stalled" {
		return v, err
	}
	beside, err := c.result(other)
	if err == nil {
		v["beside"] = beside["rate"]
	}
	return v, err
}
