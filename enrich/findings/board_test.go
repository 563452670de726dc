// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// stage is a board that is shown a host second by second.
type stage struct {
	*Board
	view View
	log  []string // what began and ended, and when
}

func newStage(config Config) *stage { return &stage{Board: NewBoard(config), view: healthy()} }

// play evaluates after so many seconds since the start.
func (s *stage) play(seconds int) {
	s.view.Now = start.Add(time.Duration(seconds) * time.Second)
	for _, c := range s.Evaluate(&s.view) {
		word := "raised"
		if c.Cleared {
			word = "cleared"
		}
		s.log = append(s.log, fmt.Sprintf("%d %s %s %s", seconds, word, c.ID, c.Subject.Container))
	}
}

func (s *stage) requireLog(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, s.log); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestBoardRaisesHoldsAndClears(t *testing.T) {
	s := newStage(Config{Hold: 2 * time.Minute})
	s.play(0)
	s.view.Losses = []Loss{loss("filtered", 50)}
	s.play(5)
	s.view.Losses[0].Packets = 70
	s.play(10)
	want := []Finding{{
		ID: "filtered", Severity: Warning, Title: "A firewall rule drops or rejects a container's packets.",
		Subject: webOn("front", enrich.ScopeHost, ""), Since: start.Add(5 * time.Second), LastSeen: start.Add(10 * time.Second),
		Evidence: lossFacts(70), Remedy: s.rules[0].Remedy, Confirm: s.rules[0].Confirm, Basis: s.rules[0].Basis,
		Runbook: "https://github.com/bridgewatch/bridgewatch/blob/main/docs/findings/filtered.md",
	}}
	if diff := cmp.Diff(want, s.Standing()); diff != "" {
		t.Errorf("standing (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, s.Holding()); diff != "" {
		t.Errorf("holding (-want +got):\n%s", diff)
	}
	s.view.Losses = nil
	s.play(15)
	if len(s.Standing()) != 1 || len(s.Holding()) != 0 {
		t.Errorf("a moment after: standing %+v, holding %+v", s.Standing(), s.Holding())
	}
	s.play(129)
	if len(s.Standing()) != 1 {
		t.Errorf("before the end of hold: standing %+v", s.Standing())
	}
	s.play(130)
	if len(s.Standing()) != 0 {
		t.Errorf("after the end of hold: standing %+v", s.Standing())
	}
	s.requireLog(t, "5 raised filtered shop-web-1", "130 cleared filtered shop-web-1")
	if got := s.Raised()["filtered"]; got != 1 {
		t.Errorf("raised %d times", got)
	}
	if !s.Evaluated().Equal(start.Add(130 * time.Second)) {
		t.Errorf("evaluated at %s", s.Evaluated())
	}
}

func TestBoardWithoutHold(t *testing.T) {
	s := newStage(Config{})
	s.view.Losses = []Loss{loss("filtered", 50)}
	s.play(0)
	if len(s.Standing()) != 1 {
		t.Errorf("while it holds: standing %+v", s.Standing())
	}
	s.view.Losses = nil
	s.play(5)
	s.requireLog(t, "0 raised filtered shop-web-1", "5 cleared filtered shop-web-1")
}

func TestBoardDoesNotFlap(t *testing.T) {
	s := newStage(Config{Hold: 30 * time.Second})
	for second := 0; second < 300; second += 5 {
		s.view.Losses = nil
		if second%20 == 0 {
			s.view.Losses = []Loss{loss("filtered", 50)}
		}
		s.play(second)
	}
	s.requireLog(t, "0 raised filtered shop-web-1")
}

func TestBoardWaitsForWhatMustLast(t *testing.T) {
	s := newStage(Config{Hold: time.Minute})
	left := func(there bool) {
		s.view.Host.Sandboxes = nil
		if there {
			s.view.Host.Sandboxes = []string{"/run/docker/netns/0123456789ab"}
		}
	}
	left(true) // being made
	s.play(0)
	s.play(25)
	left(false)
	s.play(30)
	left(true) // here to stay
	s.play(35)
	s.play(60)
	s.play(64)
	s.requireLog(t)
	s.play(65)
	left(false)
	s.play(70)
	left(true) // it need not last again while it stands
	s.play(75)
	if len(s.Holding()) != 1 {
		t.Errorf("holding %+v", s.Holding())
	}
	s.requireLog(t, "65 raised leftover-sandbox ")
}

func TestBoardSortsByGravity(t *testing.T) {
	s := newStage(Config{Hold: time.Minute})
	s.view.Losses = []Loss{loss("unknown", 50), loss("ip-forward-off", 50), loss("hairpin", 50), loss("filtered", 50)}
	s.play(0)
	var got []string
	for _, f := range s.Standing() {
		got = append(got, string(f.Severity)+" "+f.ID)
	}
	want := []string{"critical ip-forward-off", "warning filtered", "warning hairpin", "info unknown"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestBoardIgnores(t *testing.T) {
	label := func(v *View, id, value string) {
		v.container(id).Labels = map[string]string{LabelIgnore: value}
	}
	alone := loss("filtered", 50)
	alone.Subject.Identity = enrich.Identity{Container: "printer", Network: "lan"}
	alone.Example.ContainerID = lanID
	for _, c := range []struct {
		name   string
		flag   string
		change func(*View)
		want   string // containers that it is raised for
	}{
		{"nothing", "", nil, "printer shop-web-1"},
		{"everywhere", "filtered", nil, ""},
		{"another finding", "hairpin", nil, "printer shop-web-1"},
		{"a service of a stack", "filtered@shop/web", nil, "printer"},
		{"a service of another stack", "filtered@shoe/web", nil, "printer shop-web-1"},
		{"a service without its stack", "filtered@web", nil, "printer shop-web-1"},
		{"a container without a service", "filtered@printer", nil, "shop-web-1"},
		{"a label", "", func(v *View) { label(v, webID, "hairpin, filtered") }, "printer"},
		{"a label on a container alone", "", func(v *View) { label(v, lanID, "filtered") }, "shop-web-1"},
		{"a label for another finding", "", func(v *View) { label(v, webID, "hairpin") }, "printer shop-web-1"},
		{"a label elsewhere", "", func(v *View) { label(v, dbID, "filtered") }, "printer shop-web-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{Hold: time.Minute}
			if c.flag != "" {
				ignore, err := ParseIgnore(c.flag)
				if err != nil {
					t.Fatal(err)
				}
				config.Ignore = []Ignore{ignore}
			}
			s := newStage(config)
			s.view.Losses = []Loss{loss("filtered", 50), alone}
			if c.change != nil {
				c.change(&s.view)
			}
			s.play(0)
			var got []string
			for _, f := range s.Standing() {
				got = append(got, f.Subject.Container)
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("raised for (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBoardIgnoresByNetwork: a network's label is for what concerns nobody else.
func TestBoardIgnoresByNetwork(t *testing.T) {
	s := newStage(Config{Hold: time.Minute, UnusedAfter: time.Hour})
	s.view.network("fresh").Created = start.Add(-2 * time.Hour)
	l := loss("filtered", 50)
	l.Subject.Network = "fresh"
	s.view.Losses = []Loss{l}
	s.view.network("front").Labels = map[string]string{LabelIgnore: "unused-network"}
	s.view.network("fresh").Labels = map[string]string{LabelIgnore: "filtered, unused-network"}
	s.play(0)
	s.requireLog(t, "0 raised filtered shop-web-1")
	s.view.network("fresh").Labels = nil
	s.play(5)
	s.requireLog(t, "0 raised filtered shop-web-1", "5 raised unused-network ")
}

// TestBoardIgnoresForService: the label of a service's containers is for what concerns the service as a whole, too.
func TestBoardIgnoresForService(t *testing.T) {
	s := newStage(Config{Hold: time.Minute})
	s.view.Uses = []Use{meshUse(5)}
	s.view.container(webID).Labels = map[string]string{LabelIgnore: "mesh-snat"} // of another service
	s.view.container(taskID).Labels = map[string]string{LabelIgnore: "mesh-snat"}
	s.play(0)
	s.requireLog(t)
	s.view.container(taskID).Labels = map[string]string{LabelIgnore: "masq-src"}
	s.play(5)
	s.requireLog(t, "5 raised mesh-snat ")
	service := enrich.LiveService{Identity: meshUse(5).Subject.Identity}
	service.Labels = map[string]string{LabelIgnore: "mesh-snat"}
	s.view.Inventory.Services = []enrich.LiveService{service} // a manager knows it, whether or not a task runs here
	s.view.Inventory.Containers = nil
	s.play(100)
	s.requireLog(t, "5 raised mesh-snat ", "100 cleared mesh-snat ")
	ignore, err := ParseIgnore("mesh-snat@stack/api")
	if err != nil || !ignore.Matches("mesh-snat", meshUse(5).Subject) {
		t.Errorf("%+v does not match the service: %v", ignore, err)
	}
}

// TestBoardIgnoresWhoHasEnded: what a container lost at its end is in view for longer than the container.
func TestBoardIgnoresWhoHasEnded(t *testing.T) {
	s := newStage(Config{Hold: time.Minute})
	s.view.Losses = []Loss{loss("filtered", 50)}
	s.view.container(webID).Labels = map[string]string{LabelIgnore: "filtered"}
	s.view.Host.Sandboxes = nil
	s.play(0)
	s.view.Inventory.Containers = s.view.Inventory.Containers[:1] // without it
	s.play(5)
	s.play(60)
	s.requireLog(t)
	s.view.Inventory.Containers = healthyContainers() // it has come back without the label
	s.play(65)
	s.requireLog(t, "65 raised filtered shop-web-1")
}

func TestParseIgnoreRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense":         `no finding is called "nonsense"; see bridgewatch explain`,
		"filtered@":        `"filtered@" names no service: write filtered@SERVICE or filtered@STACK/SERVICE`,
		"filtered@shop/":   `"filtered@shop/" names no service: write filtered@SERVICE or filtered@STACK/SERVICE`,
		"nonsense@shop/db": `no finding is called "nonsense"; see bridgewatch explain`,
	} {
		if _, err := ParseIgnore(text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestBoardIsSafeForConcurrentUse(t *testing.T) {
	board, recent := NewBoard(Config{Hold: time.Minute}), NewRecent()
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 20 {
				recent.AddDrops([]enrich.Drop{dropped("filtered", webID, 10)}, start)
				recent.AddNetns(webID, loader.NetnsState{ListenOverflows: uint64(i)}, start)
				view := healthy()
				recent.Fill(&view)
				board.Evaluate(&view)
				_, _, _, _ = board.Standing(), board.Holding(), board.Raised(), recent.Overflow()
			}
		})
	}
	group.Wait()
}
