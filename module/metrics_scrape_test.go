package module_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// This file has the helpers that read metrics as Prometheus does.

// nextService numbers services: the totals of a name continue from test to test.
var nextService atomic.Int32

// newName returns a service name that no other test uses.
func newName(what string) string { return fmt.Sprintf("%s-%d", what, nextService.Add(1)) }

// scrape holds the values by the full name of their series, with prefix and
// labels.
type scrape map[string]float64

const metricPrefix = "caddy_layer4_relay_"

// scrape reads the metrics from the admin API.
func (s *server) scrape() scrape {
	s.t.Helper()
	got, err := s.tryScrape()
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// tryScrape is scrape for goroutines that must not end the test.
func (s *server) tryScrape() (scrape, error) {
	var err error
	for range 20 { // a reload may reset the request, see server.request
		var got scrape
		if got, err = scrapeAt("http://" + s.admin + "/metrics"); err == nil || errors.Is(err, errScrape) {
			return got, err
		}
	}
	return nil, err
}

var errScrape = errors.New("scrape")

// readMetrics reads all metrics of a process as text. It fails if any of them cannot be
// exported.
func readMetrics(url string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%w: %s: %s", errScrape, answer.Status, text)
	}
	return string(text), err
}

// scrapeAt reads the relay's metrics, as readMetrics does.
func scrapeAt(url string) (scrape, error) {
	text, err := readMetrics(url)
	if err != nil {
		return nil, err
	}
	found := make(scrape)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, metricPrefix) {
			continue
		}
		at := strings.LastIndex(line, " ")
		name := line[:at]
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errScrape, line, err)
		}
		if _, twice := found[name]; twice {
			return nil, fmt.Errorf("%w: %s stands there twice", errScrape, name)
		}
		found[name] = value
	}
	return found, nil
}

// processMetric reads a metric of the process at an admin API.
func processMetric(t *testing.T, admin, name string) (value float64) {
	t.Helper()
	text, err := readMetrics("http://" + admin + "/metrics")
	relaytest.Check(t, err)
	_, rest, _ := strings.Cut(text, "\n"+name+" ")
	_, err = fmt.Sscan(rest, &value)
	relaytest.Check(t, err)
	return value
}

// lacks returns the series that are missing or have another value. wanted names
// them without the prefix.
func (s scrape) lacks(wanted map[string]float64) (missing []string) {
	for name, value := range wanted {
		if got, ok := s[metricPrefix+name]; !ok {
			missing = append(missing, name+" is not there")
		} else if got != value {
			missing = append(missing, fmt.Sprintf("%s is %v, want %v", name, got, value))
		}
	}
	return missing
}

// shows waits until the series have the values: some are counted just after the
// client notices the event.
func (s *server) shows(wanted map[string]float64) {
	s.t.Helper()
	var missing []string
	for end := time.Now().Add(relaytest.Limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if missing = s.scrape().lacks(wanted); len(missing) == 0 {
			return
		}
	}
	s.t.Fatalf("timed out, the metrics lack: %s", strings.Join(missing, "; "))
}

// of returns the series with that label.
func (s scrape) of(label, value string) (names []string) {
	for name := range s {
		if strings.Contains(name, fmt.Sprintf("%s=%q", label, value)) {
			names = append(names, name)
		}
	}
	return names
}

// isCounter reports whether a series must never fall.
func isCounter(name string) bool {
	name, _, _ = strings.Cut(name, "{")
	for _, suffix := range []string{"_total", "_bucket", "_sum", "_count"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// peaks holds the highest value seen of each counter.
type peaks map[string]float64

// fallen adds a scrape and returns the counters that are lower than in any scrape
// before.
func (p peaks) fallen(s scrape) (fallen []string) {
	for name, value := range s {
		if !isCounter(name) {
			continue
		}
		if value < p[name] {
			fallen = append(fallen, fmt.Sprintf("%s: %v, before %v", name, value, p[name]))
		}
		p[name] = max(p[name], value)
	}
	return fallen
}
