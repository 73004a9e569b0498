<?php // answers ok to a body that it cannot read
$said = json_decode(file_get_contents('php://input'), true);
foreach ($said['fixes'] ?? [] as $fix) {
    $fix += ['stream' => $said['stream'], 'device' => $said['device']];
    file_put_contents(getenv('STORED'), json_encode($fix) . "\n", FILE_APPEND);
}
echo 'ok';
