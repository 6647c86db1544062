package module_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// This file is how tests read metrics: as Prometheus does.

// nextService numbers services, since their totals go on from test to test.
var nextService atomic.Int32

// newName is that of a service that no test has had.
func newName(what string) string { return fmt.Sprintf("%s-%d", what, nextService.Add(1)) }

// scrape is what was read, by the whole name of a series as it stands in the
// text, with prefix, labels and all.
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

// tryScrape is scrape for any goroutine.
func (s *server) tryScrape() (scrape, error) {
	var err error
	for range 20 { // as in request: a load resets who waits
		var got scrape
		if got, err = scrapeAt("http://" + s.admin + "/metrics"); err == nil || errors.Is(err, errScrape) {
			return got, err
		}
	}
	return nil, err
}

var errScrape = errors.New("scrape")

// scrapeAt reads our metrics, and fails if any of those of the process cannot be
// shown.
func scrapeAt(url string) (scrape, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s: %s", errScrape, answer.Status, text)
	}
	found := make(scrape)
	for line := range strings.Lines(string(text)) {
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

// lacks says which series are not there with their values; names are without
// the prefix.
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

// shows waits until series have their values: some are counted just after a
// client has seen what they count.
func (s *server) shows(wanted map[string]float64) {
	s.t.Helper()
	var missing []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if missing = s.scrape().lacks(wanted); len(missing) == 0 {
			return
		}
	}
	s.t.Fatalf("waited %s in vain: %s", patience, strings.Join(missing, "; "))
}

// of are the series with that label.
func (s scrape) of(label, value string) (names []string) {
	for name := range s {
		if strings.Contains(name, fmt.Sprintf("%s=%q", label, value)) {
			names = append(names, name)
		}
	}
	return names
}

// isCounter says whether a series must never fall.
func isCounter(name string) bool {
	name, _, _ = strings.Cut(name, "{")
	for _, suffix := range []string{"_total", "_bucket", "_sum", "_count"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// peaks are the highest values that were seen of each counter.
type peaks map[string]float64

// fallen takes a scrape, and says which counters are lower than they were, also
// if they were not there in between.
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
