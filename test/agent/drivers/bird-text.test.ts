import t from 'tap'
import { composeConfig, configTextBytesMax, defaultText, explain, isQuotable, screenText } from '../../../agent/drivers/bird-text.ts'

t.test('a service may not reach files or other programs through BIRD', async (t) => {
  for (const text of [
    'include "/etc/shadow";',
    'INCLUDE "x.conf";',
    'protocol device {}\n  include "other.conf";',
    'log "bird.log" all;',
    'log syslog all;',
    'mrtdump "dump";',
    'protocol mrt m { table "master4"; filename "out"; period 1; }',
    'protocol rpki r { remote "host"; transport ssh { bird private key "k"; }; }',
    'debug protocols all;',
    'protocol bgp { description "/etc/passwd"; }',
    '/* quiet */ include /* more */ "x";',
    'protocol device {} # "\ninclude "x";',
  ]) {
    t.throws(() => screenText(text), { code: 'CONFIG_INVALID' }, text)
  }
})

t.test('what cannot be read safely is refused with its line', async (t) => {
  t.throws(() => screenText('a;\nb;\n/* never closed'), { code: 'CONFIG_INVALID', message: /line 3/ })
  t.throws(() => screenText('a;\nx "never closed\n'), { code: 'CONFIG_INVALID', message: /line 2/ })
  t.throws(() => screenText('a;\u0000b;'), { code: 'CONFIG_INVALID', message: /control character/ })
  t.throws(() => screenText('x'.repeat(configTextBytesMax + 1)), { code: 'CONFIG_INVALID' })
})

t.test('ordinary routing text passes, also where a forbidden word is only a part or a comment', async (t) => {
  t.doesNotThrow(() => screenText('# include nothing\nprotocol static catalog_log { ipv4; }\nprotocol bgp b { interface "eth0"; }\n/* log */'))
  t.doesNotThrow(() => screenText(defaultText('10.0.0.1')))
})

t.test("the head holds the log and the drain, and line numbers are counted from the service's first line", async (t) => {
  const text = composeConfig({ text: 'router id 1.2.3.4;', drained: true, logPath: '/run/offbox/bird.log' })
  const lines = text.split('\n')
  t.match(lines[0], /^log "\/run\/offbox\/bird\.log" \d+ "\/run\/offbox\/bird\.log\.1"/)
  t.equal(lines[1], 'define DRAINED = true;')
  t.equal(lines[2], 'router id 1.2.3.4;')
  t.equal(explain('/run/offbox/bird-check-1.conf:3:7 syntax error'), 'line 1, column 7: syntax error')
  t.equal(explain('/run/offbox/bird-check-1.conf:2:7 syntax error'), 'head: syntax error')
})

t.test('paths that could end a quoted string are not quotable', async (t) => {
  t.ok(isQuotable('/run/offbox/sw-1/bird.conf'))
  for (const path of ['relative', '/run/a"b', '/run/a b', '/run/a\nb', '/run/a;b']) t.notOk(isQuotable(path), path)
})
