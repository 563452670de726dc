// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

var update = flag.Bool("update", false, "write findings/README.md anew")

// Each finding has its page, and each page its finding.
func TestEveryFindingHasItsPage(t *testing.T) {
	var ids []string
	for _, d := range findings.Catalogue() {
		ids = append(ids, d.ID)
	}
	if diff := cmp.Diff(ids, Findings()); diff != "" {
		t.Errorf("findings of the catalogue (-) and pages in docs/findings (+):\n%s", diff)
	}
}

func TestFinding(t *testing.T) {
	for _, id := range Findings() {
		if page, err := Finding(id); err != nil || !strings.HasPrefix(page, "# "+id+": ") {
			t.Errorf("Finding(%q) = %.40q, %v", id, page, err)
		}
	}
	for _, id := range []string{"", "no-such-thing", "README", "../metrics", "filtered.md"} {
		if page, err := Finding(id); !errors.Is(err, ErrUnknownFinding) || page != "" {
			t.Errorf("Finding(%q) = %.40q, %v; want ErrUnknownFinding", id, page, err)
		}
	}
}

// sections are what each page has, in this order.
var sections = []string{
	"What you see", "Why it happens", "How Bridgewatch knows", "What to do", "Confirm", "Accept it", "Related",
}

// A page says the same as the finding's definition and has all that a reader in trouble needs.
func TestPages(t *testing.T) {
	for _, d := range findings.Catalogue() {
		t.Run(d.ID, func(t *testing.T) {
			page := read(t, "findings/"+d.ID+".md")
			lines := strings.Split(page, "\n")
			if want := fmt.Sprintf("# %s: %s", d.ID, d.Title); lines[0] != want {
				t.Errorf("first line is %q, want %q", lines[0], want)
			}
			if want := fmt.Sprintf("Severity: **%s**", d.Severity); lines[2] != want {
				t.Errorf("third line is %q, want %q", lines[2], want)
			}
			if diff := cmp.Diff(sections, headings(page, "## ")); diff != "" {
				t.Errorf("sections (-want +got):\n%s", diff)
			}
			for _, m := range regexp.MustCompile(`(?:findings|bridgewatch)\.ignore=([a-z0-9-]+)`).FindAllStringSubmatch(page, -1) {
				if m[1] != d.ID {
					t.Errorf("says how to ignore %q", m[1])
				}
			}
			if m := regexp.MustCompile(`reason *(=~?|!=|!~) *"`).FindString(page); m != "" {
				t.Errorf("selects series by %s: reasons differ between kernels, causes do not", m)
			}
			if strings.Contains(page, "\t") || strings.Contains(page, " \n") {
				t.Error("has a tab, or blanks at the end of a line")
			}
		})
	}
}

// What a page tells people to query exists.
func TestPagesNameMetricsThatExist(t *testing.T) {
	known := read(t, "metrics.md")
	for _, id := range Findings() {
		for _, metric := range regexp.MustCompile(`bridgewatch_[a-z_]+`).FindAllString(read(t, "findings/"+id+".md"), -1) {
			if !strings.Contains(known, "`"+metric) {
				t.Errorf("findings/%s.md names %s, which docs/metrics.md does not", id, metric)
			}
		}
	}
}

// Links within the docs lead somewhere.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, file := range files(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, file), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := file
			if target != "" {
				to = path.Join(path.Dir(file), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("docs/%s links to %s, which does not exist", file, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, to)), anchor) {
				t.Errorf("docs/%s links to %s, which has no such heading", file, m[1])
			}
		}
	}
}

// The index is what the catalogue says now.
func TestIndex(t *testing.T) {
	want := makeIndex(findings.Catalogue())
	const file = "findings/" + index + ".md"
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, read(t, file)); diff != "" {
		t.Errorf("docs/%s is stale; run go generate ./docs\n%s", file, diff)
	}
}

const indexHead = `# Findings

<!-- Generated from enrich/findings by go generate ./docs. Do not edit. -->

What Bridgewatch can find, gravest first. Each page says what people notice, why it happens, how it was established, what to
do and how to see that it is over. ` + "`bridgewatch explain ID`" + ` prints it without a network.

In the pages' commands CONTAINER, NETWORK and IMAGE are Docker's names, and PID is a process of the container:
` + "`docker inspect -f '{{.State.Pid}}' CONTAINER`" + `. BRIDGE is a network's device: docker0, or br- and the first twelve
digits of the network's ID, or what its option ` + "`com.docker.network.bridge.name`" + ` says. VETH is the host's end of a
container's interface, UPLINK the device that leads out of the host. Commands run as root on the host. ` + "`conntrack`" + `
before 1.4.7 shows and deletes IPv4 only, unless it is given ` + "`-f ipv6`" + ` or an IPv6 address. ` + "`dig`" + `
is in the package bind9-dnsutils, or bind-utils; ` + "`nsenter -t PID -n dig`" + ` runs the host's in the container's network.

Labels that accept a finding are the container's: ` + "`--label`" + ` of docker run, ` + "`--container-label`" + ` of docker service, in a
Compose file ` + "`labels:`" + ` of the service itself. Those under ` + "`deploy:`" + ` are a Swarm service's own, which only an agent on a
manager can read.
`

// makeIndex lists the findings by severity.
func makeIndex(all []findings.Definition) string {
	var b strings.Builder
	b.WriteString(indexHead)
	for _, severity := range findings.Severities() {
		name := string(severity)
		fmt.Fprintf(&b, "\n## %s%s\n\n| finding | says | established by |\n| --- | --- | --- |\n", strings.ToUpper(name[:1]), name[1:])
		for _, d := range all {
			if d.Severity == severity {
				fmt.Fprintf(&b, "| [%s](%s.md) | %s | %s |\n", d.ID, d.ID, cell(d.Title), cell(d.Basis))
			}
		}
	}
	return b.String()
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// files returns all pages of the docs.
func files(t *testing.T) (all []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(file, ".md") {
			all = append(all, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// headings returns the text of the headings with a prefix.
func headings(page, prefix string) (all []string) {
	for line := range strings.Lines(page) {
		if text, found := strings.CutPrefix(line, prefix); found {
			all = append(all, strings.TrimSpace(text))
		}
	}
	return all
}

// anchors returns what a page's headings are called in links, as GitHub makes them.
func anchors(page string) (all []string) {
	for _, text := range headings(page, "#") {
		text = strings.ToLower(strings.TrimSpace(strings.TrimLeft(text, "#")))
		text = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(text, "")
		all = append(all, strings.ReplaceAll(text, " ", "-"))
	}
	return all
}
