// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, "TestHealthyHost", "TestDrops", "TestOverlayLoss", "TestOverlayFaults", "TestOverlayPeers", "TestNetworks",
		"TestDNSFindings", "TestMeshBackends", "TestAlertmanager", "TestStateFindings", "TestOverlayUpdates"))
}
