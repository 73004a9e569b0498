<?php // Compass's own endpoint and file storage, for `php -S`. Lumen, the database table and the cache are replaced.

namespace Laravel\Lumen\Routing {
    class Controller
    {
    }
}

namespace Illuminate\Http {
    class Request
    {
        private $said;

        public function __construct()
        {
            $this->said = $_GET + (json_decode(file_get_contents('php://input'), true) ?? []);
        }

        public function input($name)
        {
            return $this->said[$name] ?? null;
        }
    }
}

namespace {
    error_reporting(E_ALL & ~E_DEPRECATED);
    ini_set('display_errors', '0');

    class DB // one row; its write_token comes from the environment
    {
        private $found = true;

        public static function table($name)
        {
            return new self();
        }

        public function where($column, $is, $value = null)
        {
            $this->found = $column !== 'write_token' || $value === getenv('TOKEN');
            return $this;
        }

        public function first()
        {
            return $this->found ? (object) ['id' => 1, 'name' => 'van', 'ping_urls' => ''] : null;
        }

        public function update($values)
        {
        }
    }

    class Cache
    {
        private static function file($key)
        {
            return getenv('STORAGE_DIR') . 'cache/' . md5($key);
        }

        public static function has($key)
        {
            return file_exists(self::file($key));
        }

        public static function put($key, $value, $minutes)
        {
            touch(self::file($key));
        }
    }

    class Log
    {
        public static function warning($text)
        {
        }
    }

    class Answer
    {
        public function __construct(private $body)
        {
        }

        public function header($name, $value)
        {
            header("$name: $value");
            return $this;
        }

        public function send()
        {
            echo $this->body;
        }
    }

    function response($body)
    {
        return new Answer($body);
    }

    function env($name)
    {
        return getenv($name);
    }

    foreach (['Helpers', 'Exception', 'DB', 'Shard', 'Record', 'ResultSet'] as $name) {
        require_once getenv('CODE') . "/QuartzDB/src/Quartz/$name.php";
    }
    require getenv('CODE') . '/Compass/compass/app/Http/Controllers/Api.php';
    foreach (['cache', 'van'] as $folder) {
        @mkdir(getenv('STORAGE_DIR') . $folder);
    }
    (new App\Http\Controllers\Api())->input(new Illuminate\Http\Request())->send();
}
