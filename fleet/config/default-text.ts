/** What `offbox init` writes: every setting with its default, so that the file explains itself. Kept equal to schema.ts by a test. */
export function defaultConfigText(fleet: string): string {
  return `# Offbox, the controller's configuration. docs/configuration.md explains every setting; all but "fleet" may be left out.
fleet: ${fleet}

controller:
  # Where devices and operators reach the controller, and where it listens.
  address: 127.0.0.1
  apiPort: 9340
  enrolPort: 9341
  bootPort: 8080
  # Where the fleet's witness answers, ADDRESS:PORT (offbox witness serve); empty: devices get no answer from one.
  witness: ""

rollout:
  # How long a new version must stay healthy on a device before it is confirmed there.
  bakeSeconds: 10
  # A device undoes a new version by itself when it is not confirmed within this time.
  confirmSeconds: 60

lab:
  # How many devices npm start boots, 1 to 8.
  devices: 3
`
}
