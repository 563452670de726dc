// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testNodeID = "gg9smtd7vp27wabyylj4qb3vj"
	testTaskID = "llzn6b35dfiq0v9gcz1dod1xc"
)

// taskLabels are those that Swarm puts on a task's container.
func taskLabels(stack, service, slot string) map[string]string {
	labels := map[string]string{
		labelSwarmService: service,
		labelSwarmTask:    service + "." + slot + "." + testTaskID,
		labelSwarmNode:    testNodeID,
	}
	if stack != "" {
		labels[labelStack] = stack
	}
	return labels
}

// composeLabels are those that Compose puts on a service's container.
func composeLabels(project, service, number, oneOff string) map[string]string {
	return map[string]string{
		labelComposeProject: project,
		labelComposeService: service,
		labelComposeNumber:  number,
		labelComposeOneOff:  oneOff,
	}
}

func TestIdentify(t *testing.T) {
	for _, tc := range []struct {
		name      string
		container string // its name
		labels    map[string]string
		node      string
		want      Identity
	}{
		{
			name:      "replicated task",
			container: "web.2." + testTaskID,
			labels:    taskLabels("", "web", "2"),
			want:      Identity{Service: "web", Container: "web.2"},
		},
		{
			name:      "replicated task of a stack",
			container: "shop_web.2." + testTaskID,
			labels:    taskLabels("shop", "shop_web", "2"),
			want:      Identity{Stack: "shop", Service: "web", Container: "web.2"},
		},
		{
			name:      "global task is named by its node",
			container: "shop_log." + testNodeID + "." + testTaskID,
			labels:    taskLabels("shop", "shop_log", testNodeID),
			node:      "n1",
			want:      Identity{Stack: "shop", Service: "log", Container: "log.n1"},
		},
		{
			name:   "global task on a node whose name is not known",
			labels: taskLabels("", "log", testNodeID),
			want:   Identity{Service: "log", Container: "log." + testNodeID},
		},
		{
			name:   "stack with an underscore",
			labels: taskLabels("my_shop", "my_shop_web", "1"),
			want:   Identity{Stack: "my_shop", Service: "web", Container: "web.1"},
		},
		{
			name:   "service that is named like its stack",
			labels: taskLabels("web", "web_web", "1"),
			want:   Identity{Stack: "web", Service: "web", Container: "web.1"},
		},
		{
			name:   "service with a dot",
			labels: taskLabels("", "web.v2", "3"),
			want:   Identity{Service: "web.v2", Container: "web.v2.3"},
		},
		{
			name:      "compose service",
			container: "shop-web-1",
			labels:    composeLabels("shop", "web", "1", "False"),
			want:      Identity{Stack: "shop", Service: "web", Container: "shop-web-1"},
		},
		{
			name:      "compose 1 with underscores",
			container: "shop_web_2",
			labels:    composeLabels("shop", "web", "2", "False"),
			want:      Identity{Stack: "shop", Service: "web", Container: "shop-web-2"},
		},
		{
			name:      "compose replacement before its rename",
			container: "0123456789ab_shop-web-1",
			labels:    composeLabels("shop", "web", "1", "False"),
			want:      Identity{Stack: "shop", Service: "web", Container: "shop-web-1"},
		},
		{
			name:      "compose one-off run",
			container: "shop-web-run-5f0c7fbc2b3d",
			labels:    composeLabels("shop", "web", "1", "True"),
			want:      Identity{Stack: "shop", Service: "web", Container: AdHoc},
		},
		{
			name:   "compose without a number",
			labels: map[string]string{labelComposeProject: "shop", labelComposeService: "web"},
			want:   Identity{Stack: "shop", Service: "web", Container: "shop-web-1"},
		},
		{name: "generated name", container: "jolly_wozniak", want: Identity{Container: AdHoc}},
		{name: "generated name, second try", container: "jolly_wozniak7", want: Identity{Container: AdHoc}},
		{name: "no name yet", container: "", want: Identity{Container: AdHoc}},
		{name: "a person's name", container: "database", want: Identity{Container: "database"}},
		{name: "a person's name with an underscore", container: "my_database", want: Identity{Container: "my_database"}},
		{name: "an adjective in a person's name", container: "happy_old_database", want: Identity{Container: "happy_old_database"}},
		{name: "an adjective and what is no surname", container: "happy_db-1", want: Identity{Container: "happy_db-1"}},
		{name: "an adjective alone", container: "happy", want: Identity{Container: "happy"}},
		{name: "an adjective and nothing", container: "happy_", want: Identity{Container: "happy_"}},
		{name: "an adjective at the end", container: "web_happy", want: Identity{Container: "web_happy"}},
		{name: "looks like an ID", container: "0123456789ab", want: Identity{Container: "0123456789ab"}},
		{
			name:      "hostile name and labels",
			container: "a\"b\nc",
			labels:    map[string]string{labelStack: "s\"\n", labelSwarmService: "s\"\n_w\\"},
			want:      Identity{Stack: "s\"\n", Service: "w\\", Container: "a\"b\nc"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := identify(tc.container, tc.labels, tc.node, ContainerByName)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestIdentifyContainerLabel(t *testing.T) {
	for _, tc := range []struct {
		label   ContainerLabel
		service Identity // of a Compose service's container
		alone   Identity // of a container that a person named
	}{
		{
			label:   ContainerByName,
			service: Identity{Stack: "shop", Service: "web", Container: "shop-web-1"},
			alone:   Identity{Container: "database"},
		},
		{label: ContainerByService, service: Identity{Stack: "shop", Service: "web", Container: "web"}},
		{label: ContainerNone, service: Identity{Stack: "shop", Service: "web"}},
	} {
		t.Run(string(tc.label), func(t *testing.T) {
			labels := composeLabels("shop", "web", "1", "False")
			if diff := cmp.Diff(tc.service, identify("shop-web-1", labels, "", tc.label)); diff != "" {
				t.Errorf("service: %s", diff)
			}
			if diff := cmp.Diff(tc.alone, identify("database", nil, "", tc.label)); diff != "" {
				t.Errorf("alone: %s", diff)
			}
		})
	}
}

// A global task's name holds the node's name, which may become known after the task.
func TestNodeNamedAfterItsTasks(t *testing.T) {
	w := newWorld(t)
	c := w.container("log")
	c.Labels = taskLabels("", "log", testNodeID)
	w.PutContainer(c)
	w.SetNode(Node{Name: "n1"})
	live := w.live("log")
	if want := "log.n1"; live.Identity.Container != want {
		t.Errorf("container label is %q, want %q", live.Identity.Container, want)
	}
}
