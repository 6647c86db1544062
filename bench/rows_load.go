//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// loading is the group of the rows of this file.
const loading = "Loading"

// The peers listen anew at each reload, so for a moment they need two descriptors
// for each of the 8,000 addresses, and 20,000 have to be enough.
func loadRows() []row {
	return []row{{
		name: "Start and reload with 4,000 services", group: loading, network: "tcp", backends: refusedBackend,
		job: job{Count: 4000},
		metrics: []metric{
			{"start cpu", "CPU s to start", true}, {"start", "s to start", true}, {"start memory", "MiB RSS then", true},
			{"reload cpu", "CPU s to reload", true}, {"reload", "s to reload", true}, {"reload memory", "MiB RSS after three reloads", true},
		},
	}}
}

// servers returns the servers of a config with many services, each on its own
// address of loopback, over TCP and UDP.
func servers(own string, s setup, handler object) object {
	_, port, _ := net.SplitHostPort(s.listen)
	all := make(object)
	for i := range s.services {
		at := net.JoinHostPort(fmt.Sprintf("127.4.%d.%d", i/250, i%250+1), port)
		one := make(object)
		for key, value := range handler {
			one[key] = value
		}
		if one["name"] != nil {
			one["name"] = "bench" + strconv.Itoa(i)
		}
		all["bench"+strconv.Itoa(i)] = object{
			"listen": []string{own + "tcp/" + at, own + "udp/" + at},
			"routes": []object{{"handle": []object{one}}},
		}
	}
	return all
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
	began := time.Now()
	c, err := startChild(b.dir, argv...)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := c.waitLoaded(s.admin); err != nil {
		return nil, err
	}
	v := values{"start": time.Since(began).Seconds()}
	process := meter{c.cmd.Process.Pid}
	record := func(prefix string, since time.Duration, times float64) (time.Duration, error) {
		cpu, err := process.cpu()
		if err != nil {
			return 0, err
		}
		kib, err := process.resident()
		v[prefix+" cpu"], v[prefix+" memory"] = (cpu-since).Seconds()/times, kib/1024
		return cpu, err
	}
	cpu, err := record("start", 0, 1)
	if err != nil {
		return nil, err
	}
	const reloads = 3
	began = time.Now()
	for range reloads {
		if err := reload(s.admin, config); err != nil {
			return nil, err
		}
	}
	v["reload"] = time.Since(began).Seconds() / reloads
	_, err = record("reload", cpu, reloads)
	return v, err
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
