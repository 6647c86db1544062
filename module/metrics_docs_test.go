package module_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// document reads a file of docs/.
func document(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	metricInText  = regexp.MustCompile(metricPrefix + `\w+`)
	matcherInText = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*\\?"`)
	byInText      = regexp.MustCompile(`\b(?:by|without|on)\s*\(([^)]*)\)`)
)

// checkExpression checks that an expression uses only existing metrics and labels.
// Prometheus itself adds the labels job and instance.
func checkExpression(t *testing.T, expr string, names, labels map[string]bool) {
	t.Helper()
	found := metricInText.FindAllString(expr, -1)
	if len(found) == 0 {
		t.Errorf("no metric of the relay in %q", expr)
	}
	for _, name := range found {
		if !names[name] {
			t.Errorf("%s is not scraped: %s", name, expr)
		}
	}
	var asked []string
	for _, m := range matcherInText.FindAllStringSubmatch(expr, -1) {
		asked = append(asked, m[1])
	}
	for _, m := range byInText.FindAllStringSubmatch(expr, -1) {
		asked = append(asked, strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	for _, label := range asked {
		if !labels[label] && label != "instance" && label != "job" {
			t.Errorf("no metric has the label %s: %s", label, expr)
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
		t.Errorf("unbalanced parentheses: %s", expr)
	}
}

// scraped returns the names and labels of all metrics. A histogram counts as its
// parts.
func scraped(t *testing.T) (names, labels map[string]bool) {
	t.Helper()
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	s := start(t, block("TCP/"+at, backend+" {\n name "+newName("documented")+"\n }"))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Fatalf("got %q", got)
	}
	names, labels = make(map[string]bool), make(map[string]bool)
	for key := range s.scrape() {
		name, _, _ := strings.Cut(key, "{")
		names[name] = true
		for _, m := range matcherInText.FindAllStringSubmatch(key, -1) {
			labels[m[1]] = true
		}
	}
	return names, labels
}

// The dashboard and the alerts use only existing metrics, and the dashboard shows
// all of them.
func TestDashboardAndAlertsNameMetrics(t *testing.T) {
	names, labels := scraped(t)
	var dashboard struct {
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Type, Definition string
			}
		}
		Panels []struct {
			ID          int
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	text := document(t, "grafana-dashboard.json")
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	variables, ids := make(map[string]bool), make(map[int]bool)
	for _, v := range dashboard.Templating.List {
		variables[v.Name] = true
		if v.Type == "query" {
			checkExpression(t, v.Definition, names, labels)
		}
	}
	for _, name := range []string{"datasource", "service", "backend"} {
		if !variables[name] {
			t.Errorf("the dashboard has no variable %s", name)
		}
	}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s has no expression", p.Title)
		}
		for _, target := range p.Targets {
			checkExpression(t, target.Expr, names, labels)
			for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] && m[1] != "__rate_interval" {
					t.Errorf("%s: no variable %s", p.Title, m[1])
				}
			}
		}
	}
	for name := range names {
		if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") {
			continue // the dashboard uses the buckets
		}
		if !strings.Contains(string(text), name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}

	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(document(t, "alerts.yaml"))))
	decoder.KnownFields(true)
	if err := decoder.Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	for _, group := range alerts.Groups {
		for _, rule := range group.Rules {
			checkExpression(t, rule.Expr, names, labels)
			if rule.Alert == "" || rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" {
				t.Errorf("%q needs a name, a severity and a summary", rule.Expr)
			}
		}
	}
	if len(alerts.Groups) == 0 || len(alerts.Groups[0].Rules) == 0 {
		t.Error("no alerts")
	}
}
