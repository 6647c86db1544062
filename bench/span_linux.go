package main

import (
	"fmt"
	"os"
	"time"
)

// machine is a reading of the CPU time of the whole machine.
type machine struct {
	at     time.Time
	unused time.Duration
	cpus   int
}

func machineTime() (m machine, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, err
	}
	m.at = time.Now()
	m.unused, m.cpus, err = unused(string(stat))
	return m, err
}

// since returns the CPU time that the machine used since an earlier reading. It is
// what was not unused: the kernel counts that exactly, and samples the rest.
func (m machine) since(before machine) time.Duration {
	return max(0, time.Duration(m.cpus)*m.at.Sub(before.at)-(m.unused-before.unused))
}

// span measures units of work, and the CPU and wall time from begin to end.
type span struct {
	relay, load, backend meter
	progress             *progress
	n                    int64
	began                reading
}

// reading is the CPU time used so far.
type reading struct {
	relay, load, backend time.Duration
	machine              machine
}

func begin(j job, p *progress) (s span, err error) {
	s = span{relay: j.PIDs, load: meter{os.Getpid()}, progress: p}
	if j.Backend != 0 {
		s.backend = meter{j.Backend}
	}
	p.forget()
	s.n = p.units.Load()
	s.began, err = s.read()
	return s, err
}

func (s span) read() (r reading, err error) {
	for _, m := range []struct {
		of   meter
		time *time.Duration
	}{{s.relay, &r.relay}, {s.load, &r.load}, {s.backend, &r.backend}} {
		if *m.time, err = m.of.cpu(); err != nil {
			return r, err
		}
	}
	r.machine, err = machineTime()
	return r, err
}

// end returns the rate in units per second divided by scale, latencies, and CPU
// seconds per scale units multiplied by perCPU: of the relay, the load, the backend,
// and the whole machine. What the machine used and none of the three is the
// kernel's own threads, such as those that deliver packets, and other programs.
func (s span) end(scale, perCPU float64) (values, error) {
	now, err := s.read()
	if err != nil {
		return nil, err
	}
	n, took := float64(s.progress.units.Load()-s.n)/scale, now.machine.at.Sub(s.began.machine.at)
	if n <= 0 {
		return nil, fmt.Errorf("no unit of work was done in %v", took)
	}
	each := func(t time.Duration) float64 { return max(0, t.Seconds()) * perCPU / n }
	relay, load, backend := now.relay-s.began.relay, now.load-s.began.load, now.backend-s.began.backend
	all := now.machine.since(s.began.machine)
	v := values{
		"rate":    n / took.Seconds(),
		"machine": each(all),
		"load":    each(load),
		"backend": each(backend),
		"kernel":  each(all - relay - load - backend),
	}
	if len(s.relay) > 0 {
		v["cpu"] = each(relay)
	}
	s.progress.addTo(v)
	return v, nil
}

// window measures workers that run continuously, after a warm-up.
func window(j job, p *progress, failed <-chan error, scale, perCPU float64) (values, error) {
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(j.Window/4 + 50*time.Millisecond):
	}
	s, err := begin(j, p)
	if err != nil {
		return nil, err
	}
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(j.Window):
	}
	return s.end(scale, perCPU)
}

// counted measures work of a fixed number of units. It includes the CPU time that
// a relay uses shortly after the last one.
func counted(j job, p *progress, work func() error) (values, error) {
	time.Sleep(100 * time.Millisecond)
	s, err := begin(j, p)
	if err != nil {
		return nil, err
	}
	if err := work(); err != nil {
		return nil, err
	}
	took := time.Since(s.began.machine.at)
	time.Sleep(100 * time.Millisecond)
	v, err := s.end(1, micro)
	if err == nil {
		v["rate"] = float64(p.units.Load()-s.n) / took.Seconds()
	}
	return v, err
}
