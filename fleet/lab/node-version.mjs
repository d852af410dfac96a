// Imported first by whatever runs under the Node that is there: an old one should hear why, not a TypeError from deep inside.
if (Number(process.versions.node.split('.')[0]) < 20) {
  process.stderr.write(
    `SETUP_MISSING: Node ${process.versions.node} is too old; Node 20 or later is needed to begin (Node 26 is then installed with the project)\n`,
  )
  process.exit(1)
}
