package module_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// alertTests is the part of a file of promtool's unit tests that says which alerts
// are tested.
type alertTests struct {
	Tests []struct {
		Rules []struct {
			Alert string `yaml:"alertname"`
			Fires []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

// Each alert has a test in which it fires and one in which it does not. promtool
// runs them.
func TestAlertsFire(t *testing.T) {
	var rules struct {
		Groups []struct{ Rules []struct{ Alert string } }
	}
	relaytest.Check(t, yaml.Unmarshal(document(t, "alerts.yaml"), &rules))
	file := filepath.Join("testdata", "alerts.test.yaml")
	text, err := os.ReadFile(file)
	relaytest.Check(t, err)
	var tests alertTests
	relaytest.Check(t, yaml.Unmarshal(text, &tests))
	tested := make(map[string][2]bool) // silent, firing
	for _, test := range tests.Tests {
		for _, rule := range test.Rules {
			seen := tested[rule.Alert]
			seen[0] = seen[0] || len(rule.Fires) == 0
			seen[1] = seen[1] || len(rule.Fires) > 0
			tested[rule.Alert] = seen
		}
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if tested[rule.Alert] != [2]bool{true, true} {
				t.Errorf("%s needs a test in which it fires and one in which it does not", rule.Alert)
			}
		}
	}

	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// mayBeEmpty are the panels whose expressions have no result without failures.
var mayBeEmpty = map[string]bool{
	"Time to connect": true, "Connections made": true, "Bytes": true, "Datagrams": true, "Clients refused": true,
	"Failed, hedged and rescued": true, "Demotions and drills": true, "Clients refused and held": true,
	"Datagrams dropped": true, "UDP sessions evicted, ICMP errors ignored": true, "Log lines dropped": true,
	"Queries by result": true,
}

// A real Prometheus evaluates each expression of the dashboard and each alert over
// the metrics of a running relay.
func TestPrometheusEvaluatesDashboard(t *testing.T) {
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed")
	}
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	s := start(t, block("TCP/"+at, backend+" {\n name "+newName("watched")+"\n }"))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Fatalf("got %q", got)
	}

	dir, web := t.TempDir(), freeAddr(t)
	rules, err := filepath.Abs("../docs/alerts.yaml")
	relaytest.Check(t, err)
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: caddy, static_configs: [{targets: [%q]}]}]\n", rules, s.admin)
	file := filepath.Join(dir, "prometheus.yml")
	relaytest.Check(t, os.WriteFile(file, []byte(config), 0o600))
	p := spawn(t, "", exec.Command(prometheus, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+web))

	// query returns the number of series of an expression's value.
	query := func(expr string) (series int, err error) {
		var answer struct {
			Status, Error string
			Data          struct{ Result []any }
		}
		if err := get("http://"+web+"/api/v1/query?query="+url.QueryEscape(expr), &answer); err != nil {
			return 0, err
		}
		if answer.Status != "success" {
			return 0, fmt.Errorf("%s: %s", expr, answer.Error)
		}
		return len(answer.Data.Result), nil
	}
	relaytest.Eventually(t, "Prometheus to scrape the relay", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("prometheus ended: %v", p.err)
		default:
		}
		n, err := query("count_over_time(" + metricPrefix + "build_info[1m]) > 1") // as rate needs
		return err == nil && n > 0
	})

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	relaytest.Check(t, json.Unmarshal(document(t, "grafana-dashboard.json"), &dashboard))
	variables := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$service", ".*", "$network", ".*", "$backend", ".*")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			// On a busy machine a scrape may time out. Until the next one has
			// succeeded, its series are not there.
			relaytest.Eventually(t, fmt.Sprintf("series of %s: %s", panel.Title, target.Expr), func() bool {
				n, err := query(variables.Replace(target.Expr))
				if err != nil {
					t.Errorf("%s: %v", panel.Title, err)
					return true
				}
				return n > 0 || mayBeEmpty[panel.Title]
			})
		}
	}
	relaytest.Eventually(t, "each alert to be evaluated without an error", func() bool {
		var answer struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Health, LastError string }
				}
			}
		}
		if err := get("http://"+web+"/api/v1/rules", &answer); err != nil || len(answer.Data.Groups) == 0 {
			return false
		}
		for _, rule := range answer.Data.Groups[0].Rules {
			if rule.Health == "err" {
				t.Fatalf("an alert cannot be evaluated: %s", rule.LastError)
			}
			if rule.Health != "ok" { // not evaluated yet
				return false
			}
		}
		return true
	})
}

// get reads a JSON document.
func get(at string, to any) error {
	response, err := http.Get(at)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(to)
}
