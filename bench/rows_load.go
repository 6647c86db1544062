//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// loadRows are about configs with many services, each on its own address on TCP, and
// every second one on UDP too. In a reload, peers need two descriptors for each address.
func loadRows() []row {
	return []row{{
		name: "Start and reload with 5,000 services", group: loading, network: "tcp", backends: refusedBackend, services: 5000, files: 17_000,
		metrics: []metric{
			{"CPU s to start, relay / machine", []string{"start cpu", "start machine"}, true}, single("start", "s to start", true), single("start memory", "MiB RSS then", true),
			{"CPU s to reload, relay / machine", []string{"reload cpu", "reload machine"}, true}, single("reload", "s to reload", true), single("reload memory", "MiB RSS after three reloads", true),
		},
	}}
}

// measureLoading measures how long a Caddy target needs to load its config: at its
// start, and at three reloads, of which it returns the mean.
func (b *bench) measureLoading(t target, s setup) (values, error) {
	argv, err := t.command(s)
	if err != nil {
		return nil, err
	}
	config, err := os.ReadFile(argv[len(argv)-1])
	if err != nil {
		return nil, err
	}
	began, err := machineTime()
	if err != nil {
		return nil, err
	}
	c, err := startChild(b.dir, argv...)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := c.waitLoaded(s.admin); err != nil {
		return nil, err
	}
	v, process, before := values{}, meter{c.cmd.Process.Pid}, time.Duration(0)
	record := func(phase string, times float64) error {
		now, err := machineTime()
		if err != nil {
			return err
		}
		cpu, err := process.cpu()
		if err != nil {
			return err
		}
		kib, err := process.resident()
		v[phase], v[phase+" memory"] = now.at.Sub(began.at).Seconds()/times, kib/1024
		v[phase+" cpu"], v[phase+" machine"] = (cpu-before).Seconds()/times, now.since(began).Seconds()/times
		before = cpu
		return err
	}
	if err := record("start", 1); err != nil {
		return nil, err
	}
	const reloads = 3
	if began, err = machineTime(); err != nil {
		return nil, err
	}
	for range reloads {
		if err := reload(s.admin, config); err != nil {
			return nil, err
		}
	}
	return v, record("reload", reloads)
}

// waitLoaded waits until Caddy has loaded its first config. The admin API starts
// before that, and answers this request afterwards.
func (c *child) waitLoaded(admin string) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		answer, err := http.Get("http://" + admin + "/config/admin")
		if err != nil {
			continue
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err == nil && json.Valid(text) && !bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
			return nil
		}
	}
	return fmt.Errorf("the config is not loaded after a minute: %s", c.logged())
}

func reload(admin string, config []byte) error {
	request, err := http.NewRequest(http.MethodPost, "http://"+admin+"/load", bytes.NewReader(config))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Cache-Control", "must-revalidate") // loads an unchanged config too
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("reload: %s: %s", answer.Status, text)
	}
	return nil
}
